# One static binary on an image without a shell, as a user without rights.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# Git is not in the build context, so its words are arguments: docker build --build-arg VERSION=v1.2.3 --build-arg REVISION=$(git rev-parse HEAD).
ARG VERSION= REVISION=
RUN CGO_ENABLED=0 go build -trimpath -o /omnia-gateway \
      -ldflags "-X github.com/altairalabs/omnia-gateway/internal/buildinfo.version=$VERSION -X github.com/altairalabs/omnia-gateway/internal/buildinfo.revision=$REVISION" \
      ./cmd/omnia-gateway

FROM gcr.io/distroless/static-debian12:nonroot
ARG VERSION= REVISION=
LABEL org.opencontainers.image.title="omnia-gateway" \
      org.opencontainers.image.description="Lets callers with a valid token through to AI agents that speak WebSocket" \
      org.opencontainers.image.source="https://github.com/altairalabs/omnia-gateway" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /omnia-gateway /omnia-gateway
# 8443 with a certificate, 8080 without. The admin listener stays on loopback, where the health check asks it. The check follows
# OMNIA_GATEWAY_CONFIG and OMNIA_GATEWAY_ADMIN_LISTEN; it cannot see the arguments of serve.
EXPOSE 8443 8080
HEALTHCHECK --interval=10s --timeout=6s --start-period=5s CMD ["/omnia-gateway", "health"]
ENTRYPOINT ["/omnia-gateway"]
CMD ["serve"]
