# One static binary on an image without a shell, as a user without rights.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -o /omnia-gateway ./cmd/omnia-gateway

FROM gcr.io/distroless/static-debian12:nonroot
LABEL org.opencontainers.image.title="omnia-gateway" \
      org.opencontainers.image.description="Lets callers with a valid token through to AI agents that speak WebSocket" \
      org.opencontainers.image.source="https://github.com/altairalabs/omnia-gateway" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /omnia-gateway /omnia-gateway
# 8443 with a certificate, 8080 without. The admin listener stays on loopback, where the health check asks it.
EXPOSE 8443 8080
HEALTHCHECK --interval=10s --timeout=6s --start-period=5s CMD ["/omnia-gateway", "health"]
ENTRYPOINT ["/omnia-gateway"]
CMD ["serve"]
