package job

import (
	"fmt"
	"slices"
	"strings"
)

// Completer is what a shell completes.
type Completer struct {
	Commands []string
	Tour     []string // the options of the tour, without dashes
}

// shells are the shells with a completion.
var shells = []string{"bash", "zsh", "fish"}

// Completion returns a script of a shell, bash, zsh or fish, that completes commands, options, and those values of
// options that are few words.
func (c *Completer) Completion(shell string) (string, error) {
	switch shell {
	case "bash":
		return c.bash(), nil
	case "zsh":
		return "#compdef pcbench\nautoload -U +X bashcompinit && bashcompinit\n" + c.bash(), nil
	case "fish":
		return c.fish(), nil
	}
	return "", fmt.Errorf("completion: %q: want bash, zsh or fish", shell)
}

// completed returns the options that have an effect.
func completed() (all []*Option) {
	for i := range Options {
		if o := &Options[i]; o.Accepted() && o.NoOp == "" {
			all = append(all, o)
		}
	}
	return all
}

// bash returns the script for bash. Its words end at =, so that the word before a value is = or an option.
func (c *Completer) bash() string {
	b := &strings.Builder{}
	words := func(list []string, prefix string) string {
		return fmt.Sprintf("COMPREPLY=($(compgen -W '%s%s' -- \"$cur\"))", prefix, strings.Join(list, " "+prefix))
	}
	fmt.Fprint(b, "_pcbench() {\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD-1]}\n"+
		"\tif [[ $cur == --*=* ]]; then option=${cur%%=*} cur=${cur#*=}; fi\n"+
		"\tif [[ $cur == '=' ]]; then cur=; elif [[ $option == '=' ]]; then "+
		"option=${COMP_WORDS[COMP_CWORD-2]}; fi\n")
	fmt.Fprintf(b, "\tif ((COMP_CWORD == 1)); then\n\t\t%s\n\t\treturn\n\tfi\n", words(c.Commands, ""))
	var names []string
	fmt.Fprint(b, "\tcase $option in\n")
	for _, o := range completed() {
		names = append(names, o.Name)
		if len(o.Values) > 0 {
			fmt.Fprintf(b, "\t--%s) %s; return ;;\n", o.Name, words(o.Values, ""))
		}
	}
	fmt.Fprintf(b, "\tesac\n\tcase ${COMP_WORDS[1]}:$cur in\n\tcompletion:*) %s ;;\n\thelp:*) %s ;;\n",
		words(shells, ""), words(c.Commands, ""))
	fmt.Fprintf(b, "\ttour:--*) %s ;;\n\trun:--*) %s ;;\n", words(c.Tour, "--"), words(names, "--"))
	fmt.Fprint(b, "\t*) COMPREPLY=($(compgen -f -- \"$cur\")) ;;\n\tesac\n}\n"+
		"complete -o nospace -F _pcbench pcbench\n")
	return b.String()
}

// fish returns the script for fish.
func (c *Completer) fish() string {
	b := &strings.Builder{}
	for _, name := range c.Commands {
		fmt.Fprintf(b, "complete -c pcbench -n __fish_use_subcommand -f -a %s\n", name)
	}
	after := func(command string) string { return "'__fish_seen_subcommand_from " + command + "'" }
	fmt.Fprintf(b, "complete -c pcbench -n %s -f -a '%s'\n", after("completion"), strings.Join(shells, " "))
	fmt.Fprintf(b, "complete -c pcbench -n %s -f -a '%s'\n", after("help"), strings.Join(c.Commands, " "))
	for _, name := range c.Tour {
		if Lookup(name) == nil {
			fmt.Fprintf(b, "complete -c pcbench -n %s -l %s\n", after("tour"), name)
		}
	}
	for _, o := range completed() {
		values := ""
		if len(o.Values) > 0 {
			values = " -x -a '" + strings.Join(o.Values, " ") + "'"
		}
		commands := "run"
		if slices.Contains(c.Tour, o.Name) {
			commands = "run tour"
		}
		fmt.Fprintf(b, "complete -c pcbench -n %s -l %s%s -d '%s'\n", after(commands), o.Name, values,
			strings.ReplaceAll(o.Help, "'", `\'`))
	}
	return b.String()
}
