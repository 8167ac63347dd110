//go:build race

package recovery

func init() { slow = true }
