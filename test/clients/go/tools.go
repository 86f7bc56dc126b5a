//go:build tools

package main

import _ "github.com/canonical/lxd/lxc"
