//go:build tools

// Package helm tests the Helm chart. This file keeps the modules in go.mod from which the tests
// read definitions of custom resources.
package helm

import (
	_ "github.com/prometheus-operator/prometheus-operator/pkg/versionutil"
	_ "istio.io/api/label"
	_ "sigs.k8s.io/gateway-api/apis/v1"
)
