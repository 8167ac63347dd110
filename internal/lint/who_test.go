package lint

import (
	"regexp"
	"strings"
)

var (
	who      = regexp.MustCompile(`(?i)\b(?:whoever|whomever|who)\b`)
	lastWord = regexp.MustCompile(`([\pL\pN_'’-]+) *(,?) *$`)
	fronted  = regexp.MustCompile(`^(?:Is|Are|Was|Were|Has|Have|Had|Does|Did|Can|Should|Could) ` +
		`(?:the|a|an|it|its|there|this|that|these|those|they|no|any|one|both|all|some|either|neither|` +
		`nothing|something|nobody|somebody|anybody|what|your|our) [^.?!;:|\n]*,`)
	nominal = regexp.MustCompile(`^[Ww]hat `)
)

// headless has the words before "who" that do not name an actor: the clause stands for a noun or for nothing.
var headless = set(`a about after all also among and any anybody anyone are as ask asks at be
	because been before being between both but by check checks decide decides determine determines each
	else even everybody everyone few find finds for from he here how if in into is it just knew know knows
	learn learns many matter matters means most no nobody none not of off on one ones only or other others
	out over records regardless said same say says see sees she show shows since so some somebody someone
	tell tells than that them then there these they this those through till to told under unless until up
	upon was were what when where whether which while why with without`)

// things has the nouns that are no persons.
var things = set(`goroutine goroutines thread threads process processes call calls waiter waiters
	leader leaders writer writers flusher cleaner evictor function functions transaction transactions page
	pages`)

func set(words string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

// headlessWho returns the offsets of each "whoever", and of each "who" that does not begin a clause about a noun
// before it. A question is good English.
func headlessWho(p *passage) (at []int) {
	for _, m := range who.FindAllStringIndex(p.text, -1) {
		before := p.text[:m[0]]
		word := lastWord.FindStringSubmatch(before)
		if strings.EqualFold(p.text[m[0]:m[1]], "who") && word != nil && !lower(headless, word[1]) &&
			(word[2] != "" || !lower(things, word[1])) {
			continue
		}
		if word != nil || !question(p.text[m[1]:]) {
			at = append(at, m[0])
		}
	}
	return at
}

func lower(words map[string]bool, w string) bool { return words[strings.ToLower(w)] }

// question reports whether the sentence that text continues is a question.
func question(text string) bool {
	i := strings.IndexAny(text, ".?!;|\n")
	return i >= 0 && text[i] == '?'
}

// frontedCondition returns the offsets of sentences such as "Is the page resident, Get returns it".
func frontedCondition(p *passage) (at []int) {
	p.sentences(func(i int, s string) {
		if fronted.MatchString(s) && !strings.HasSuffix(s, "?") {
			at = append(at, i)
		}
	})
	return at
}

// nominalWhat returns the offsets of sentences whose subject is a clause: "What does not fit is evicted". A heading,
// the head of a column and a question are good English.
func nominalWhat(p *passage) (at []int) {
	p.sentences(func(i int, s string) {
		explains := strings.HasSuffix(p.text[:i], "i.e. ") || strings.HasSuffix(p.text[:i], "e.g. ")
		if nominal.MatchString(s) && strings.HasSuffix(s, ".") && len(strings.Fields(s)) > 3 && !explains {
			at = append(at, i)
		}
	})
	return at
}
