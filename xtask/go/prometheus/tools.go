// Pins what `cargo xtask` builds in go.mod and go.sum. Never compiled itself.

//go:build tools

package tools

import _ "github.com/prometheus/prometheus/cmd/prometheus"
