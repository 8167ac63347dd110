//go:build !race

package slab

const raced = false
