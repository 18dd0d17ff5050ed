//go:build !goroutines

package relay

// inLanes reports whether lanes drive sessions, where there are any. With the build tag goroutines
// they do not: tests run the driver of other systems so.
const inLanes = true
