//go:build !linux

package gateway

import "net"

// listenConfig returns how listeners are bound.
func listenConfig() *net.ListenConfig { return &net.ListenConfig{} }
