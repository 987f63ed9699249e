// Package manual writes manual pages, as roff for man(1) and as Markdown, from the
// declarations that programs run by: commands and flags of cobra, options of crio.conf.
package manual

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// EnvAnnotation is the annotation of a flag that names its environment variables.
const EnvAnnotation = "env"

// Page is one manual page.
type Page struct {
	Name    string // of the page: crio
	Section int    // 1: commands, 5: files, 8: of administrators
	Short   string // what it is, in one line
	Blocks  []Block
}

// Block is a piece of a page: exactly one field is set, but for a term, which has a
// text.
type Block struct {
	Heading, Sub, Text, Code string
	Term                     string // explained by Text
}

// Heading begins a section.
func Heading(s string) Block { return Block{Heading: s} }

// Sub begins a part of a section.
func Sub(s string) Block { return Block{Sub: s} }

// Text is a paragraph.
func Text(s string) Block { return Block{Text: s} }

// Code is shown as it is.
func Code(s string) Block { return Block{Code: s} }

// Term is a word and what it means.
func Term(term, s string) Block { return Block{Term: term, Text: s} }

// Command makes the page of a command tree: name, synopsis, description, commands and
// flags; more follows.
func Command(root *cobra.Command, section int, more ...Block) Page {
	p := Page{Name: root.Name(), Section: section, Short: root.Short}
	p.Blocks = append(p.Blocks, Heading("Synopsis"), Code(synopsis(root)), Heading("Description"))
	p.Blocks = append(p.Blocks, paragraphs(root)...)
	if list := visible(root); len(list) > 0 {
		p.Blocks = append(p.Blocks, Heading("Commands"))
		for _, c := range list {
			p.command(c)
		}
	}
	p.Blocks = append(p.Blocks, Heading("Options"))
	p.flags(root.PersistentFlags())
	p.flags(root.LocalNonPersistentFlags())
	p.Blocks = append(p.Blocks, more...)
	return p
}

func synopsis(root *cobra.Command) string {
	text := root.Name() + " [OPTION...]"
	if len(visible(root)) > 0 {
		text += " [COMMAND]"
	}
	return text
}

func paragraphs(c *cobra.Command) (blocks []Block) {
	long := c.Long
	if long == "" {
		long = sentence(c.Short)
	}
	for part := range strings.SplitSeq(long, "\n\n") {
		blocks = append(blocks, Text(strings.Join(strings.Fields(part), " ")))
	}
	return blocks
}

func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

func visible(c *cobra.Command) (list []*cobra.Command) {
	for _, sub := range c.Commands() {
		if !sub.Hidden && sub.Name() != "help" {
			list = append(list, sub)
		}
	}
	return list
}

func (p *Page) command(c *cobra.Command) {
	title := strings.TrimPrefix(c.UseLine(), c.Root().Name()+" ")
	title = strings.TrimSuffix(title, " [flags]")
	if len(c.Aliases) > 0 {
		title += " (" + strings.Join(c.Aliases, ", ") + ")"
	}
	p.Blocks = append(p.Blocks, Sub(title))
	p.Blocks = append(p.Blocks, paragraphs(c)...)
	p.flags(c.PersistentFlags())
	p.flags(c.LocalNonPersistentFlags())
	for _, sub := range visible(c) {
		p.command(sub)
	}
}

func (p *Page) flags(set *pflag.FlagSet) {
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		term := "--" + f.Name
		if f.Shorthand != "" {
			term += ", -" + f.Shorthand
		}
		name, usage := pflag.UnquoteUsage(f)
		if name != "" {
			term += " " + strings.ToUpper(name)
		}
		text := sentence(strings.TrimSuffix(usage, "."))
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" {
			text += " Default: " + strings.Trim(f.DefValue, "[]") + "."
		}
		if env := f.Annotations[EnvAnnotation]; len(env) > 0 {
			text += " Environment: " + strings.Join(env, ", ") + "."
		}
		p.Blocks = append(p.Blocks, Term(term, text))
	})
}

// Man writes the page in the macros of man(7).
func (p Page) Man(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s %d \"\" monocrio\n.SH NAME\n%s \\- %s\n", strings.ToUpper(p.Name), p.Section, roff(p.Name), roff(p.Short))
	for _, k := range p.Blocks {
		switch {
		case k.Heading != "":
			fmt.Fprintf(&b, ".SH %s\n", roff(strings.ToUpper(k.Heading)))
		case k.Sub != "":
			fmt.Fprintf(&b, ".SS %s\n", roff(k.Sub))
		case k.Term != "":
			fmt.Fprintf(&b, ".TP\n\\fB%s\\fR\n%s\n", roff(k.Term), roff(k.Text))
		case k.Code != "":
			fmt.Fprintf(&b, ".PP\n.nf\n.RS 4\n%s\n.RE\n.fi\n", roff(strings.TrimRight(k.Code, "\n")))
		case k.Text != "":
			fmt.Fprintf(&b, ".PP\n%s\n", roff(k.Text))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// roff protects what has a meaning in roff: backslashes, dashes, and dots and quotes at
// the beginning of a line.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

// Markdown writes the page as Markdown.
func (p Page) Markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s(%d)\n\n%s: %s\n", p.Name, p.Section, p.Name, escape(p.Short))
	for i, k := range p.Blocks {
		switch {
		case k.Heading != "":
			fmt.Fprintf(&b, "\n## %s\n", escape(k.Heading))
		case k.Sub != "":
			fmt.Fprintf(&b, "\n### %s\n", escape(k.Sub))
		case k.Term != "":
			if i == 0 || p.Blocks[i-1].Term == "" {
				b.WriteByte('\n')
			}
			fmt.Fprintf(&b, "- `%s`: %s\n", k.Term, escape(k.Text))
		case k.Code != "":
			fmt.Fprintf(&b, "\n    %s\n", strings.ReplaceAll(strings.TrimRight(k.Code, "\n"), "\n", "\n    "))
		case k.Text != "":
			fmt.Fprintf(&b, "\n%s\n", escape(k.Text))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// escape protects what has a meaning in Markdown where our texts have it.
func escape(s string) string {
	return strings.NewReplacer("<", "&lt;", "*", `\*`).Replace(s)
}
