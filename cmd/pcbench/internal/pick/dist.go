package pick

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"pagecache/cmd/pcbench/internal/units"
)

// Kind is the kind of a distribution of pages.
type Kind int

// The kinds, with fio's names.
const (
	KindRandom Kind = iota
	KindZipf
	KindPareto
	KindNormal
	KindZoned
)

// String returns fio's name of the kind.
func (k Kind) String() string {
	names := []string{"random", "zipf", "pareto", "normal", "zoned"}
	if k < 0 || int(k) >= len(names) {
		return fmt.Sprintf("Kind(%d)", int(k))
	}
	return names[k]
}

// Dist describes how pages are drawn.
type Dist struct {
	Kind  Kind
	Param float64 // theta of zipf, power of pareto, deviation of normal in percent
	Zones []Zone  // of zoned, in the order of the pages
}

// Zone is a part of the pages with its share of the draws.
type Zone struct {
	Access float64 // percent of the draws
	Pages  float64 // percent of the pages, or bytes if Bytes is set
	Bytes  bool
}

// ParseDist parses a value of fio's random_distribution.
func ParseDist(s string) (d Dist, err error) {
	kind, arg, hasArg := strings.Cut(s, ":")
	switch kind {
	case "random":
		if hasArg {
			return d, fmt.Errorf("random has no parameter")
		}
		return d, nil
	case "zipf":
		d.Kind, d.Param = KindZipf, 1.1 // the default is fio's
		return d, d.parameter(arg, hasArg, func(v float64) bool { return v > 0 && v != 1 && v <= 5 },
			"theta must be above 0, at most 5 and not 1, like zipf:1.2")
	case "pareto":
		d.Kind, d.Param = KindPareto, 0.2
		return d, d.parameter(arg, hasArg, func(v float64) bool { return v > 0 && v < 1 },
			"the power must be above 0 and below 1, like pareto:0.2")
	case "normal", "gauss":
		d.Kind = KindNormal
		return d, d.parameter(arg, hasArg, func(v float64) bool { return v >= 0 && v <= 100 },
			"the deviation must be 0 to 100 percent, like normal:20")
	case "zoned", "zoned_abs":
		d.Kind = KindZoned
		d.Zones, err = parseZones(arg, kind == "zoned_abs")
		return d, err
	}
	return d, fmt.Errorf("must be random, zipf:THETA, pareto:POWER, normal:DEVIATION, zoned:ACCESS/SIZE:… or " +
		"zoned_abs:ACCESS/BYTES:…, like zipf:1.2")
}

func (d *Dist) parameter(arg string, given bool, valid func(float64) bool, want string) error {
	if !given {
		return nil
	}
	if strings.Contains(arg, ":") {
		return fmt.Errorf("a center is not supported, since popular pages are scattered; %s", want)
	}
	v, err := strconv.ParseFloat(arg, 64)
	if err != nil || !valid(v) {
		return fmt.Errorf("%s", want)
	}
	d.Param = v
	return nil
}

// parseZones parses ACCESS/SIZE:…. Percentages that are missing are shared by the zones that have none.
func parseZones(s string, absolute bool) (zones []Zone, err error) {
	for _, part := range strings.Split(s, ":") {
		access, size, ok := strings.Cut(part, "/")
		if !ok {
			return nil, fmt.Errorf("a zone must be ACCESS/SIZE, like 60/10")
		}
		z := Zone{Access: -1, Pages: -1, Bytes: absolute}
		if access != "" {
			if z.Access, err = strconv.ParseFloat(access, 64); err != nil ||
				!(z.Access >= 0 && z.Access <= 100) { // it may be NaN
				return nil, fmt.Errorf("the share %q of the accesses must be 0 to 100 percent", access)
			}
		}
		if absolute {
			var n int64
			if n, err = units.ParseSize(size); err != nil || n <= 0 {
				return nil, fmt.Errorf("%q is not a size of a zone", size)
			}
			z.Pages = float64(n)
		} else if size != "" {
			if z.Pages, err = strconv.ParseFloat(size, 64); err != nil || !(z.Pages > 0 && z.Pages <= 100) {
				return nil, fmt.Errorf("the share %q of the pages must be above 0, at most 100 percent", size)
			}
		}
		zones = append(zones, z)
	}
	if err := complete(zones, func(z *Zone) *float64 { return &z.Access }, "accesses"); err != nil {
		return nil, err
	}
	if absolute {
		return zones, nil
	}
	return zones, complete(zones, func(z *Zone) *float64 { return &z.Pages }, "pages")
}

// complete gives each missing percentage an equal share of the rest, and checks that the sum is 100.
func complete(zones []Zone, of func(*Zone) *float64, what string) error {
	sum, missing := 0.0, 0
	for i := range zones {
		if v := *of(&zones[i]); v < 0 {
			missing++
		} else {
			sum += v
		}
	}
	for i := range zones {
		if v := of(&zones[i]); *v < 0 {
			*v = max(0, 100-sum) / float64(missing)
		}
	}
	if sum > 100.001 || missing == 0 && math.Abs(sum-100) > 0.001 {
		return fmt.Errorf("the shares of the %s add up to %v percent, not to 100", what, sum)
	}
	return nil
}
