package lint

// idiom is a way to write that a reader has to read twice, and its replacement.
type idiom struct {
	pattern string // regular expression, without regard to case unless it begins with (?-i)
	unless  string // a match that overlaps the one of pattern makes it good English
	instead string
	in      string   // regular expression of the files that it applies to, "" for all
	names   bool     // declared names are matched too, split into words
	bad     []string // samples with exactly one finding
	good    []string // samples with none
}

// nameIdioms has the idioms that only names use, as regular expressions of a name's words in lower case.
var nameIdioms = []idiom{
	{pattern: `^thin$|^thin (base|page)`, instead: "dropBase", bad: []string{"thin", "thinPage"},
		good: []string{"within"}},
	{pattern: `^met\b`, instead: "accessed, hit", bad: []string{"met", "metKeys"},
		good: []string{"method", "limitMet"}},
	{pattern: `^(tell|told)\b`, instead: "notify", bad: []string{"tell", "toldOf"}, good: []string{"teller"}},
	{pattern: `\belsewhere\b`, instead: "the place", bad: []string{"elsewhere"}, good: []string{"where"}},
	{pattern: `\bpull\b`, instead: "fetch, read", bad: []string{"pullPage"}, good: []string{"PullsCold"}},
}

// inMemory matches files about what is resident.
const inMemory = `^lru/|^engine/(memory|evict|resident)`

// idioms is the one list of words and idioms that comments, documents, messages and help do not use.
var idioms = []idiom{
	{
		pattern: `\b(he|his|him|himself)\b`, instead: "it, its, or the actor's name",
		bad:  []string{"how much of it he may use", "a goroutine and his batch", "until it is kept from him"},
		good: []string{"the heap", "this is its own", "the header"},
	}, {
		pattern: `\blikewise\b`, instead: "the fact itself",
		bad: []string{"likewise"}, good: []string{"in the same way as a read"},
	}, {
		pattern: `\bas (many|much)\b`, unless: `\bas (many|much)( [\w'-]+){0,8} as\b`,
		instead: "the number, or as many X as",
		bad:     []string{"the writer evicts as much", "skips up to twice as many.", "as many again"},
		good:    []string{"as many slots as there are buffers", "as much as it can"},
	}, {
		pattern: `\bso many\b`, unless: `\bso many( [\w'-]+){0,5} that\b`, instead: "the number: n segments",
		bad: []string{"until so many slots are free"}, good: []string{"so many reads that the ring is full"},
	}, {
		pattern: `\b(page|pages|paged|paging)[- ]out\b`, unless: `\bpages? out of\b`, instead: "evict", names: true,
		bad:  []string{"What does it page out", "pages that are paged out", "paging out is a swap"},
		good: []string{"moves the page out of the segment", "evicts the page"},
	}, {
		pattern: `\b(sweep|sweeps|swept|sweeping) out\b`, instead: "evict", names: true,
		bad: []string{"the clock sweeps out a page"}, good: []string{"a sweep of the table"},
	}, {
		pattern: `\b(give|gives|gave|given|giving) up\b`, instead: "evict", in: inMemory,
		unless: `\b(give|gives|gave|given|giving) up (waiting|after|if|when|trying)\b`,
		bad:    []string{"a page that is given up", "the policy gives up values"},
		good:   []string{"it gives up after 5 s", "giving up waiting"},
	}, {
		pattern: `\b(bring|brings|brought|bringing) (it |them |those |all |these )?in\b`,
		instead: "read, fetch", names: true,
		bad:  []string{"blocks that are brought in", "which brings it in", "bring in the page"},
		good: []string{"brings the file to a length", "in order"},
	}, {
		pattern: `\b(brought|bring|brings|bringing)( \w+){0,3} into (the (page )?cache|memory)\b`,
		instead: "read, fetch",
		bad:     []string{"is brought into the page cache"}, good: []string{"is read into the page cache"},
	}, {
		pattern: `\b(come|comes|came|coming) in\b`, instead: "is read, arrives",
		unless: `\bcom(e|es|ing) in (two|three|four|several|pairs|pieces|handy|order|any)\b`,
		bad:    []string{"a page that comes in"}, good: []string{"values come in two kinds", "income in dollars"},
	}, {
		pattern: `(?-i)\b(pull|pulls|pulled|pulling)\b`, unless: `\bpull requests?\b`, instead: "fetch, read from disk",
		bad: []string{"a value is pulled"}, good: []string{"open a pull request", "Stats.Pulls"},
	}, {
		pattern: `\b(come|comes|came|coming) to rest\b`, instead: "stop, end",
		bad: []string{"the file does not come to rest"}, good: []string{"the rest of the file"},
	}, {
		pattern: `\b(told of|tells? (it |them |everybody |nobody |anybody )?of)\b`, instead: "notify, report",
		bad: []string{"the policy is told of it", "mincore does not tell of files"}, good: []string{"tells it apart"},
	}, {
		pattern: `\bdoom\w*\b`, instead: "schedule for deletion", names: true,
		bad: []string{"doomed blobs", "doom a file"}, good: []string{"schedules the blob for deletion"},
	}, {
		pattern: `\b(thins|thinned|thinning|to thin)\b|\bthin (a|an|the|it|its|them)\b|\bthin \(|── thin ──`,
		instead: "drop base", names: true,
		bad:  []string{"thin the page", "a base that is thinned", "Base ── thin ──▶ OnDisk"},
		good: []string{"a thin layer", "within", "nothing thinner"},
	}, {
		pattern: `\bbarren\b`, instead: "nothing evictable", names: true,
		bad: []string{"the table is barren"}, good: []string{"nothing is evictable"},
	}, {
		pattern: `\bground\b`, unless: `\bground (truth|rules?)\b|\bon the ground that\b`,
		instead: "tail entry", names: true,
		bad: []string{"the ground of a chain"}, good: []string{"in the background", "the ground truth"},
	}, {
		pattern: `\bhasten\w*\b`, instead: "flush early", names: true,
		bad: []string{"hastens a flush"}, good: []string{"flushes early"},
	}, {
		pattern: `\breliev\w*\b`, instead: "reclaim", names: true,
		bad: []string{"relieve the budget", "is relieved"}, good: []string{"reclaims memory"},
	}, {
		pattern: `\bmet\b`, instead: "accessed, hit",
		unless: `\b((pre)?condition|requirement|criterion|criteria|deadline|goal|target|promise|expectation)s?` +
			`( \w+){0,7} met\b`,
		bad: []string{"pages that were met", "met again"}, good: []string{"the deadline is not met", "a method"},
	}, {
		pattern: `\btight\b`, unless: `\btight (loop|bound|fit|limit|upper|lower)s?\b`,
		instead: "disk full", names: true,
		bad: []string{"when room is tight"}, good: []string{"a tight loop", "tightly"},
	}, {
		pattern: `\bdamaged\b`, instead: "corrupt", names: true,
		bad: []string{"a damaged superblock"}, good: []string{"a corrupt superblock", "damage to a file"},
	}, {
		pattern: `\belsewhere\b`, instead: "the place: in another segment, on other platforms",
		bad: []string{"Elsewhere it compiles"}, good: []string{"on other platforms"},
	}, {
		pattern: `\b(more|less|fewer) than how (many|much|long)\b`, instead: "an upper (lower) bound on",
		bad: []string{"is more than how many messages fit"}, good: []string{"more than the messages"},
	}, {
		pattern: `\b(is|are) (about )?how (many|much|long|often|far|few)\b`, instead: "is the number of, the time for",
		bad:  []string{"IOBuffers is how many segments there are", "FlushEvery is how long a write may stay"},
		good: []string{"This is how it works", "how many there are"},
	}, {
		pattern: `(?-i)\bErr[A-Z]\w* (is|are|was) (that|what|when|for|where|how)\b`, instead: "ErrX reports that",
		bad:  []string{"ErrNoRoom is that the file cannot grow", "`ErrClosed` is when it is closed"},
		good: []string{"ErrNoRoom reports that", "it returns ErrClosed", "ErrX is returned"},
	}, {
		pattern: `(?-i)\bLSN [-−]1\b`, instead: "leave the number out",
		bad: []string{"LSN -1", "superblock, LSN −1: corrupt"}, good: []string{"LSN 1", "NoLSN"},
	}, {
		pattern: `\b(the|no|a|its|above|over|within|below) bound\b`, instead: "capacity, limit", in: inMemory,
		unless: `\b(an? )?(upper|lower) bound\b`,
		bad:    []string{"resident bytes above the bound", "over the bound"}, good: []string{"an upper bound on"},
	},
}
