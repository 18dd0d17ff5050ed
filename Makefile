# What there is to do in this repository; `make` alone lists it. Tools are installed by the targets that need them (tools/install).

FUZZTIME ?= 100000x

with_tools = . .tools/env &&

.PHONY: help build unit test simulate lint vet vuln helm soak fuzz bench istio docker tools clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the gateway, as bin/omnia-gateway
	CGO_ENABLED=0 go build -trimpath -o bin/omnia-gateway ./cmd/omnia-gateway

unit: ## the quick tests: everything but e2e, with the race detector
	go test -race $$(go list ./... | grep -v /e2e)

test: tools ## all tests with the race detector, but for one of memory; what was skipped, and why, is named at the end
	$(with_tools) gotestsum --format standard-quiet -- -race -timeout 25m ./...
	$(with_tools) go test -count=1 -run TestA28TenThousandLargeTokensLeaveNoMemory ./e2e

simulate: ## the relay's state machine with a million random schedules; without the race detector, as it has no concurrency
	OMNIA_SCHEDULES=1000000 go test -count=1 -timeout 15m -run TestMachineKeepsItsPromises ./gateway/relay

lint: ## gofmt, go vet, staticcheck, and whether go.mod is tidy
	@tools/install go
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "not formatted with gofmt:" $$unformatted; exit 1; }
	go vet ./...
	$(with_tools) staticcheck ./...
	go mod tidy -diff

vet: ## go vet alone
	go vet ./...

vuln: ## known vulnerabilities in what the gateway calls; needs the network
	@tools/install go
	$(with_tools) tools/vuln

soak: ## 200 sessions of 50 MB each way, every byte compared; relays ended in every way for a minute; slow readers for three; POSTs for one; 2,000 expiries and a token that is renewed for half a minute
	OMNIA_SOAK_MB=50 go test -run TestEveryByteOfTwoHundredSessionsArrives -v -timeout 20m ./e2e
	OMNIA_SOAK_SECONDS=60 go test -run 'TestNoPostIsLost|TestRenewedSessionsLoseNoByte|TestEachSessionEndsAtItsOwnExpiry' -v ./e2e
	OMNIA_SOAK_MB=50 go test -race -run 'TestChaos|TestSlowButSteadyReaderLives' -v -timeout 10m ./gateway/relay

fuzz: ## every fuzz target for FUZZTIME each, executions or time: make fuzz FUZZTIME=10m
	@tools/fuzz $(FUZZTIME)

helm: ## the chart: helm lint, golden files, and every object held against the checks of an API server
	@tools/install helm
	go vet -C e2e/helm ./...
	$(with_tools) go test -C e2e/helm ./...

bench: ## the gateway beside HAProxy, nginx and Envoy, on this machine; about half an hour
	@tools/install haproxy nginx envoy
	$(with_tools) go run ./bench

istio: build ## decisions beside a real Envoy that Istio's code configures; builds Istio's, and writes e2e/istio/testdata anew
	@tools/install envoy
	go build -C e2e/vectest -o $(CURDIR)/bin/vectest .
	bin/vectest -bin bin/omnia-gateway -istio e2e/istio -export e2e/vectors/*.yaml
	@go test -C e2e/istio -count=1 -update . >.tools/log/istio 2>&1 || { cat .tools/log/istio; exit 1; }
	$(with_tools) for seed in 1 2 3; do bin/vectest -bin bin/omnia-gateway -envoy envoy -istio e2e/istio -seed $$seed e2e/vectors/*.yaml || exit 1; done

docker: ## the container image, as omnia-gateway:dev
	docker build -t omnia-gateway:dev --build-arg VERSION=$$(git describe --tags --always --dirty) --build-arg REVISION=$$(git rev-parse HEAD) .

tools: ## what the tests need beside Go; says what could not be installed
	@tools/install

clean: ## removes what make made, the tools included
	rm -rf bin .tools
