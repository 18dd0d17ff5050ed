package helm

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"flag"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

const chart = "../../deploy/helm/omnia-gateway"

var update = flag.Bool("update", false, "write the golden files")

// cases are the values files; what is rendered from each stands beside it.
var cases = []string{"minimal", "omnia", "omnia-istio", "everything", "everything-istio"}

// versions are the oldest Kubernetes that the chart takes, the last without the sleep in preStop,
// the first with it, and a recent one.
var versions = []string{"1.27", "1.29", "1.30", "1.37"}

// run runs helm and returns what it wrote to standard output, or to standard error if it failed.
func run(t *testing.T, args ...string) (out string, ok bool) {
	t.Helper()
	helm, err := exec.LookPath("helm")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("helm is missing: tools/install helm")
		}
		t.Skip("helm is missing: tools/install helm")
	}
	var stdout, stderr bytes.Buffer
	c := exec.Command(helm, args...)
	c.Stdout, c.Stderr = &stdout, &stderr
	// Neither the settings of the person who runs the tests nor a cluster has a say.
	others := func(s string) bool { return strings.HasPrefix(s, "HELM_") || strings.HasPrefix(s, "KUBE") }
	c.Env = append(slices.DeleteFunc(os.Environ(), others), "KUBECONFIG=/dev/null",
		"HELM_CONFIG_HOME="+t.TempDir(), "HELM_CACHE_HOME="+t.TempDir(), "HELM_DATA_HOME="+t.TempDir())
	if err := c.Run(); err != nil {
		return stderr.String(), false
	}
	return stdout.String(), true
}

// render is what the chart makes of a case.
func render(t *testing.T, values, version string, more ...string) string {
	t.Helper()
	args := []string{"template", "omnia-gateway", chart, "--namespace", "omnia-system", "--kube-version", version}
	out, ok := run(t, append(append(args, "--values", "testdata/"+values+".yaml"), more...)...)
	if !ok {
		t.Fatalf("%s: %s", values, out)
	}
	return out
}

func TestTheGoldenFilesAreWhatIsRendered(t *testing.T) {
	for _, values := range cases {
		t.Run(values, func(t *testing.T) {
			got, file := render(t, values, "1.37"), "testdata/"+values+".golden.yaml"
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want, err := os.ReadFile(file); err != nil || got != string(want) {
				t.Errorf("it is no longer what is rendered (%v): go test -C e2e/helm -update, and read the difference\n%s", err, got)
			}
		})
	}
}

func TestEveryObjectWouldBeStored(t *testing.T) {
	c := newCluster(t)
	kinds := map[string]bool{}
	for _, values := range cases {
		for _, version := range versions {
			for _, document := range documents(render(t, values, version)) {
				if err := c.check(document); err != nil {
					t.Errorf("%s on %s: %v in\n%s", values, version, err, document)
				}
				kinds[regexp.MustCompile(`(?m)^kind: (.*)`).FindStringSubmatch(document)[1]] = true
			}
		}
	}
	for _, kind := range []string{
		"Deployment", "Service", "ConfigMap", "ServiceAccount", "HorizontalPodAutoscaler", "PodDisruptionBudget",
		"NetworkPolicy", "ServiceMonitor", "HTTPRoute", "TLSRoute", "RequestAuthentication", "AuthorizationPolicy", "EnvoyFilter",
	} {
		if !kinds[kind] {
			t.Errorf("no %s was rendered", kind)
		}
	}
}

// What the check of the tests themselves must see.
func TestMistakesWouldNotBeStored(t *testing.T) {
	c := newCluster(t)
	golden := map[string]string{}
	for _, values := range cases {
		text, err := os.ReadFile("testdata/" + values + ".golden.yaml")
		if err != nil {
			t.Fatal(err)
		}
		for _, document := range documents(string(text)) {
			kind := regexp.MustCompile(`(?m)^kind: (.*)`).FindStringSubmatch(document)[1]
			golden[kind] = document // the last two cases have the most
		}
	}
	for _, m := range []struct{ kind, old, new, problem string }{
		{"Deployment", "failureThreshold: 3", "failureTreshold: 3", "unknown field"},
		{"Deployment", "name: http-metrics,", "name: http-metrics-of-pod,", "no more than 15 characters"},
		{"Deployment", "instance: omnia-gateway\n  template", "instance: other\n  template", "does not match"},
		{"Service", "targetPort: http", "targetPort: http_", "targetPort"},
		{"PodDisruptionBudget", "AlwaysAllow", "Always", "unhealthyPodEvictionPolicy"},
		{"NetworkPolicy", "policyTypes: [Ingress]", "policyTypes: [Inbound]", "policyTypes"},
		{"HorizontalPodAutoscaler", "minReplicas: 3", "minReplicas: 30", "maxReplicas"},
		{"RequestAuthentication", "issuer:", "isuer:", "unknown field"},
		{"RequestAuthentication", `issuer: "https://login.example.org/"`, `issuer: ""`, "issuer"},
		{"AuthorizationPolicy", "action: DENY", "action: REFUSE", "action"},
		{"EnvoyFilter", "INSERT_BEFORE", "INSERT", "operation"},
		{"HTTPRoute", "PathPrefix", "Prefix", "type"},
		{"TLSRoute", "hostnames", "hosts", "hosts"},
		{"ServiceMonitor", "interval: 15s", "interval: often", "interval"},
	} {
		document := strings.Replace(golden[m.kind], m.old, m.new, 1)
		if document == golden[m.kind] {
			t.Errorf("%s: no %q in\n%s", m.kind, m.old, document)
		} else if err := c.check(document); err == nil || !strings.Contains(err.Error(), m.problem) {
			t.Errorf("%s with %q: %v, want %q", m.kind, m.new, err, m.problem)
		}
	}
}

func TestLintFindsNothing(t *testing.T) {
	for _, values := range cases {
		for _, version := range versions {
			file := "testdata/" + values + ".yaml"
			out, ok := run(t, "lint", chart, "--strict", "--kube-version", version, "--values", file)
			if !ok || strings.Contains(out, "[WARNING]") {
				t.Errorf("%s on %s: %s", values, version, out)
			}
		}
	}
}

func TestPreStopSleepsWhereKubernetesCan(t *testing.T) {
	for _, version := range versions {
		out := render(t, "minimal", version)
		can := version != "1.27" && version != "1.29"
		grace := map[bool]string{true: "terminationGracePeriodSeconds: 45", false: "terminationGracePeriodSeconds: 40"}[can]
		if strings.Contains(out, "preStop:") != can || !strings.Contains(out, grace) {
			t.Errorf("on %s: %s", version, out)
		}
	}
}

// TestDurationsBecomeSeconds holds the grace period: 5 s of preStop, the drain, 10 s.
func TestDurationsBecomeSeconds(t *testing.T) {
	for drain, want := range map[string]string{"0s": "15", "1500ms": "17", "1m30s": "105", "1h": "3615", "1.5m": "105"} {
		out := render(t, "minimal", "1.37", "--set", "config.session.drainTimeout="+drain)
		if !strings.Contains(out, "terminationGracePeriodSeconds: "+want+"\n") {
			t.Errorf("drainTimeout %s: want %s in\n%s", drain, want, out)
		}
	}
}

func TestValuesThatCannotBeMeantAreRefused(t *testing.T) {
	for _, m := range []struct{ set, problem string }{
		{"istio.enabld=true", "enabld"},
		{"config.limts.maxConnections=1", "limts"},
		{"config.limits.maxConnections=many", "maxConnections"},
		{"config.listen=:80", "listen"},
		{"config.admin.metricsListen=:80", "metricsListen"},
		{"config.session.drainTimeout=soon", "drainTimeout"},
		{"authentication.jwt.isuer=x", "isuer"},
		{"authentication.jwt.issuer=", "authentication.jwt.issuer: missing"},
		{"istio.enabled=true,authentication.jwt.issuer=,authentication.clientKeys.file=/keys.yaml", "Istio does not know client keys"},
		{`podLabels.app\.kubernetes\.io/name=other`, "set nameOverride instead"},
		{"istio.enabled=true,authentication.authorization.excludePaths={/[a]/{*\\}}", "Istio does not take [ and ] beside {*}"},
		{"config.routes=null", "config.routes: no routes"},
		{"gatewayAPI.httpRoute.enabled=true", "gatewayAPI.httpRoute.parentRefs: missing"},
		{"gatewayAPI.tlsRoute.enabled=true", "set tls.secretName"},
		{"service.type=ExternalName", "service"},
		{"image.digest=sha256:abc", "digest"},
		{"networkPolicy.agents.selector=null,networkPolicy.agents.enabled=true", "selector"},
		{"autoscaling.enabled=true,autoscaling.connectionsPerPod=0", "nothing to scale by"},
	} {
		out, ok := run(t, "template", "omnia-gateway", chart, "--kube-version", "1.37", "--values", "testdata/minimal.yaml", "--set", m.set)
		if ok || !strings.Contains(out, m.problem) {
			t.Errorf("%s: %s, want %q", m.set, out, m.problem)
		}
	}
}

// TestOddPods renders values beside which the chart has something to say itself. No key may be
// there twice: of two, Kubernetes takes one in silence.
func TestOddPods(t *testing.T) {
	c := newCluster(t)
	for _, test := range []struct{ name, values, want string }{
		{"a proxy of one's own", "istio: {enabled: true}\npodAnnotations: {proxy.istio.io/config: \"concurrency: 2\"}",
			"concurrency: 2\n          holdApplicationUntilProxyStarts: true\n          terminationDrainDuration: 40s\n"},
		{"ports of one's own", "istio: {enabled: true}\npodAnnotations: {traffic.sidecar.istio.io/excludeInboundPorts: \"9999\"}",
			"excludeInboundPorts: 9091,9999\n"},
		{"no sidecar", "istio: {enabled: true}\npodLabels: {sidecar.istio.io/inject: \"false\"}", `sidecar.istio.io/inject: "false"`},
		{"no resources", "resources: null", "args:"},
		{"no security contexts", "{podSecurityContext: null, securityContext: null, topologySpreadConstraints: null}", "args:"},
		{"a broken number of GiB", "resources: {limits: {memory: 1.5Gi}}", `{ name: GOMEMLIMIT, value: "1449551462" }`},
		{"bytes", "resources: {limits: {memory: 2000000000}}", `{ name: GOMEMLIMIT, value: "1800000000" }`},
		{"client keys alone", "authentication: {jwt: {issuer: \"\"}, clientKeys: {file: /etc/omnia/keys/keys.yaml}}", "args:"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "values.yaml")
			if err := os.WriteFile(file, []byte(test.values), 0o600); err != nil {
				t.Fatal(err)
			}
			out := render(t, "minimal", "1.37", "--values", file)
			if !strings.Contains(out, test.want) {
				t.Errorf("no %q in\n%s", test.want, out)
			}
			for _, document := range documents(out) {
				if err := c.check(document); err != nil {
					t.Errorf("%v in\n%s", err, document)
				}
				if _, err := yaml.YAMLToJSONStrict([]byte(document)); err != nil {
					t.Errorf("%v in\n%s", err, document)
				}
			}
		})
	}
}

// TestEveryKeyOfTheGatewayIsAValue gives the chart the example in which every key of the gateway
// stands.
func TestEveryKeyOfTheGatewayIsAValue(t *testing.T) {
	text, err := os.ReadFile("../../config/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	values := map[string]any{"authentication": config["authentication"], "config": config}
	for _, key := range []string{"authentication", "listen", "tls"} {
		delete(config, key)
	}
	delete(config["admin"].(map[string]any), "metricsListen")
	text, err = yaml.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, ok := run(t, "template", "omnia-gateway", chart, "--kube-version", "1.37", "--values", file); !ok {
		t.Error(out)
	}
}

func TestValuesOfTheDocsRender(t *testing.T) {
	page, err := os.ReadFile("../../docs/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllSubmatch(page, -1)
	if len(blocks) == 0 {
		t.Fatal("no values in docs/kubernetes.md")
	}
	args := []string{"template", "omnia-gateway", chart, "--kube-version", "1.37"}
	for i, block := range blocks {
		file := filepath.Join(t.TempDir(), "values.yaml")
		if err := os.WriteFile(file, block[1], 0o600); err != nil {
			t.Fatal(err)
		}
		if i == 0 { // the first block is whole, the others add to it
			args = append(args, "--values", file)
		}
		if out, ok := run(t, append(args, "--values", file)...); !ok {
			t.Errorf("%s with\n%s", out, block[1])
		}
	}
}

// TestNotesHaveALineToPaste renders the notes as an object of a copy of the chart, as helm shows
// them only to those who have a cluster.
func TestNotesHaveALineToPaste(t *testing.T) {
	notes := filepath.Join(t.TempDir(), "chart")
	if err := os.CopyFS(notes, os.DirFS(chart)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(notes, "templates/NOTES.txt"), filepath.Join(notes, "notes")); err != nil {
		t.Fatal(err)
	}
	object := "kind: Notes\ntext: |\n  {{- tpl (.Files.Get \"notes\") . | nindent 2 }}\n"
	if err := os.WriteFile(filepath.Join(notes, "templates/notes.yaml"), []byte(object), 0o644); err != nil {
		t.Fatal(err)
	}
	for values, line := range map[string]string{
		"minimal":          `wscat -c ws://127.0.0.1:8080/my-agent/ws -H "Authorization: Bearer $TOKEN"`,
		"omnia":            `wscat -c ws://127.0.0.1:8080/my-agent/ws -H "Authorization: Bearer $TOKEN"`,
		"everything":       `wscat -c wss://agents.example.com/my-agent/ws -H "Authorization: Bearer $TOKEN"`,
		"everything-istio": `tls.secretName is not used`,
	} {
		out, ok := run(t, "template", "omnia-gateway", notes, "--kube-version", "1.37", "--values", "testdata/"+values+".yaml",
			"--show-only", "templates/notes.yaml")
		if !ok || !strings.Contains(out, line) {
			t.Errorf("%s: want %s in\n%s", values, line, out)
		}
	}
}

// configuration is the gateway.yaml of a case's ConfigMap.
func configuration(t *testing.T, values string) string {
	t.Helper()
	for _, document := range documents(render(t, values, "1.37")) {
		var object struct {
			Kind string
			Data map[string]string
		}
		if yaml.Unmarshal([]byte(document), &object) == nil && object.Kind == "ConfigMap" {
			return object.Data["gateway.yaml"]
		}
	}
	t.Fatalf("%s has no ConfigMap", values)
	return ""
}

// build builds the gateway.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "omnia-gateway")
	if out, err := exec.Command("go", "build", "-C", "../..", "-o", binary, "./cmd/omnia-gateway").CombinedOutput(); err != nil {
		t.Fatalf("build the gateway: %v\n%s", err, out)
	}
	return binary
}

// TestTheConfigMapStartsTheGateway starts the built binary with what the pod would get; only
// addresses and the paths of the Secrets differ.
func TestTheConfigMapStartsTheGateway(t *testing.T) {
	binary := build(t)
	for _, values := range cases {
		t.Run(values, func(t *testing.T) {
			dir, text := t.TempDir(), configuration(t, values)
			certificate(t, dir)
			text = strings.NewReplacer("/etc/omnia/tls/", dir+"/", "/etc/omnia/client-ca/", dir+"/").Replace(text)
			file := filepath.Join(dir, "gateway.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			c := exec.Command(binary, "serve", "--config", file)
			c.Env = append(os.Environ(), "OMNIA_GATEWAY_LISTEN=127.0.0.1:0", "OMNIA_GATEWAY_ADMIN_LISTEN=127.0.0.1:0",
				"OMNIA_GATEWAY_ADMIN_METRICS_LISTEN=127.0.0.1:0", "OMNIA_GATEWAY_LOG_LEVEL=info", "OMNIA_GATEWAY_SESSION_DRAIN_TIMEOUT=1s")
			log, err := c.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			late := time.AfterFunc(20*time.Second, func() { c.Process.Kill() })
			defer late.Stop()
			var said strings.Builder
			lines := bufio.NewScanner(io.TeeReader(log, &said))
			for lines.Scan() {
				var line struct {
					Msg, Metrics string
					TLS          bool
				}
				if json.Unmarshal(lines.Bytes(), &line) != nil || line.Msg != "listening" {
					continue
				}
				if wantTLS := values == "everything"; line.TLS != wantTLS {
					t.Errorf("TLS: %v, want %v", line.TLS, wantTLS)
				}
				probe(t, "http://"+line.Metrics+"/healthz", "ok")
				probe(t, "http://"+line.Metrics+"/metrics", "omnia_gateway_connections")
				c.Process.Signal(syscall.SIGTERM)
			}
			if err := c.Wait(); err != nil || !strings.Contains(said.String(), `"listening"`) {
				t.Errorf("%v\n%s\nwith\n%s", err, said.String(), text)
			}
		})
	}
}

// TestIstioResourcesAreThoseOfExport compares the resources with what the gateway makes of the
// same values.
func TestIstioResourcesAreThoseOfExport(t *testing.T) {
	binary := build(t)
	for _, values := range []string{"omnia-istio", "everything-istio", "odd-istio"} {
		export := exec.Command(binary, "istio", "export", "--values", "testdata/"+values+".yaml")
		export.Env = append(os.Environ(),
			`OMNIA_GATEWAY_ROUTES=[{path: /my-agent, upstream: "http://my-agent:8080", allowedOrigins: ["https://app.example.com"]}]`)
		if values == "everything-istio" {
			export.Args = append(export.Args, "--selector", "app=agent,omnia.altairalabs.ai/component=agent")
		}
		out, err := export.Output()
		if err != nil {
			t.Fatalf("%s: %v", values, err)
		}
		want, got := specs(t, string(out)), specs(t, render(t, values, "1.37"))
		if len(want) != 4 {
			t.Fatalf("%s: export has %v", values, want)
		}
		for kind, spec := range want {
			if got[kind] != spec {
				t.Errorf("%s: %s: got\n%s\nwant\n%s", values, kind, got[kind], spec)
			}
		}
	}
}

// specs are the specifications of Istio's resources, by kind and action.
func specs(t *testing.T, text string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, document := range documents(text) {
		var object struct {
			APIVersion, Kind string
			Spec             map[string]any
		}
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(object.APIVersion, "istio.io/") {
			continue
		}
		spec, err := yaml.Marshal(object.Spec)
		if err != nil {
			t.Fatal(err)
		}
		action, _ := object.Spec["action"].(string)
		all[object.Kind+" "+action] = string(spec)
	}
	return all
}

func probe(t *testing.T, url, want string) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Error(err)
		return
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != http.StatusOK || !bytes.Contains(body, []byte(want)) {
		t.Errorf("%s: %s %s (%v)", url, answer.Status, body, err)
	}
}

// certificate writes tls.crt, tls.key and ca.crt.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyText := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	for name, text := range map[string][]byte{"tls.crt": cert, "ca.crt": cert, "tls.key": keyText} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
