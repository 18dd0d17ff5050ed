//go:build !linux

package relay

import (
	"math/rand/v2"
	"testing"
)

func scatter(*rand.Rand, *Lanes) {}

func left(testing.TB, *Lanes) {}
