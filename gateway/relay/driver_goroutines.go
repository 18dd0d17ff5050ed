//go:build goroutines

package relay

const inLanes = false
