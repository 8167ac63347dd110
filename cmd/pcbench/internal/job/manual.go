package job

import (
	"fmt"
	"strings"
)

// groups are the parts of the help text.
var groups = []struct {
	title   string
	options []Option
}{
	{"The load", loadOptions}, {"Time and order", timeOptions}, {"Speed and latency", paceOptions},
	{"Contents and checks", valueOptions}, {"Report of a job", reportOptions}, {"Logs and traces", logOptions},
	{"The store's work (not in fio)", ownOptions}, {"Options of the store (not in fio, except direct)", engineOptions},
	{"The whole run (not in job files)", runOptions},
	{"Comparison with other programs (not in fio, not in job files)", againstOptions},
}

// usage returns the option with its placeholder.
func (o *Option) usage() string {
	name := "--" + o.Name
	switch {
	case o.Arg != "":
		return name + "=" + strings.ToUpper(o.Arg)
	case len(o.Values) > 0:
		return name + "=" + strings.Join(o.Values, "|")
	}
	return name + "[=0|1]"
}

// about returns the help of the option with its values, aliases and default.
func (o *Option) about() string {
	text := o.Help
	if len(o.Values) > 0 && len(o.Values) < 7 {
		text += ": " + strings.Join(o.Values, ", ")
	}
	if len(o.Aliases) > 0 {
		text += "; also " + strings.Join(o.Aliases, ", ")
	}
	if o.Default != "" {
		text += " (default " + o.Default + ")"
	}
	return text
}

// Wrap breaks text into lines of at most width columns, each after indent.
func Wrap(text, indent string, width int) string {
	b, line := &strings.Builder{}, indent
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > width && line != indent {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = indent
		}
		if line != indent {
			line += " "
		}
		line += word
	}
	b.WriteString(line + "\n")
	return b.String()
}

// Help returns the help of all options.
func Help() string {
	b := &strings.Builder{}
	for _, g := range groups {
		fmt.Fprintf(b, "%s:\n\n", g.title)
		for i := range g.options {
			o := Lookup(g.options[i].Name)
			fmt.Fprintf(b, "  %s\n%s", o.usage(), Wrap(o.about(), "        ", 100))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Markdown returns the table of all options for the documents, as lists, since many rows are long.
func Markdown() string {
	b := &strings.Builder{}
	item := func(text string) { b.WriteString("- " + strings.TrimPrefix(Wrap(text, "  ", 120), "  ")) }
	for _, g := range groups {
		fmt.Fprintf(b, "### %s\n\n", g.title)
		for i := range g.options {
			o := Lookup(g.options[i].Name)
			item("`" + o.usage() + "`: " + o.about())
		}
		b.WriteByte('\n')
	}
	list := func(title string, reason func(*Option) string) {
		fmt.Fprintf(b, "### %s\n\n", title)
		for i := 0; i < len(Options); {
			why, names := reason(&Options[i]), []string{}
			for ; i < len(Options) && reason(&Options[i]) == why; i++ {
				names = append(names, "`"+Options[i].Name+"`")
			}
			if why != "" {
				item(why + ": " + strings.Join(names, ", "))
			}
		}
		b.WriteByte('\n')
	}
	list("Options of fio that are accepted and change nothing", func(o *Option) string { return o.NoOp })
	list("Options of fio that are refused", func(o *Option) string { return o.Refused })
	return strings.TrimSuffix(b.String(), "\n")
}

// Man returns the manual page of pcbench, in troff. commands describes the commands, and notes how to use run, as the
// help texts do.
func Man(version, commands, notes string) string {
	b := &strings.Builder{}
	esc := func(s string) string {
		s = strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\e`), "-", `\-`)
		if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
			s = `\&` + s
		}
		return s
	}
	verbatim := func(title, text string) {
		fmt.Fprintf(b, ".SH %s\n.nf\n", title)
		for _, line := range strings.Split(strings.Trim(text, "\n"), "\n") {
			b.WriteString(esc(line) + "\n")
		}
		b.WriteString(".fi\n")
	}
	fmt.Fprintf(b, ".TH PCBENCH 1 \"\" \"pcbench %s\"\n.SH NAME\npcbench \\- apply loads to the page cache\n", version)
	fmt.Fprint(b, ".SH SYNOPSIS\n.B pcbench run\n[OPTIONS] [FILE.fio ...]\n.br\n.B pcbench\ntour|dump|check|salvage|"+
		"backup|restore|verify|completion|man|help|version\n")
	verbatim("COMMANDS", commands)
	for _, g := range groups {
		fmt.Fprintf(b, ".SH %s\n", strings.ToUpper(g.title))
		for i := range g.options {
			o := Lookup(g.options[i].Name)
			fmt.Fprintf(b, ".TP\n.B %s\n%s\n", esc(o.usage()), esc(o.about()))
		}
	}
	verbatim("NOTES", notes)
	return b.String()
}
