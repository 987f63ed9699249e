package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
)

// What a value must be is said by the tag "is":
//
//	path     an absolute path          path?    or nothing
//	paths    a list of them
//	socket   a path that a socket can have   socket?  or nothing
//	ip port hostport regexp cpus bytes? pairs   as the errors below say
//	N..M     a number; N.. without end; "N.. or X": or just X
//	A B C    one of these words; "? A B": or nothing
//
// verdict says what is needed if text is not that; "" if it is.
func verdict(is, text string) string {
	switch is {
	case "":
		return ""
	case "path?", "socket?", "bytes?":
		if text == "" {
			return ""
		}
		is = strings.TrimSuffix(is, "?")
	}
	switch is {
	case "path", "paths":
		return needs(filepath.IsAbs(text), "an absolute path is needed")
	case "socket":
		return needs(filepath.IsAbs(text) && len(text) <= 107, "an absolute path of at most 107 characters is needed, as the kernel allows no longer one for a socket")
	case "ip":
		_, err := netip.ParseAddr(text)
		return needs(err == nil, "an IP address of this machine is needed, such as 127.0.0.1 or ::1")
	case "port":
		_, err := strconv.ParseUint(text, 10, 16)
		return needs(err == nil, "a number from 0 to 65535 is needed")
	case "hostport":
		host, port, err := net.SplitHostPort(text)
		n, bad := strconv.ParseUint(port, 10, 16)
		return needs(err == nil && bad == nil && host != "" && n > 0, "HOST:PORT is needed, such as 127.0.0.1:4317")
	case "regexp":
		_, err := regexp.Compile(text)
		return needs(err == nil, fmt.Sprintf("a regular expression is needed: %v", err))
	case "cpus":
		return needs(cpuList(text), "a list of CPUs is needed, such as 0-3,7")
	case "bytes":
		_, err := ParseBytes(text)
		return needs(err == nil, "a size is needed, such as 12MiB")
	case "pairs":
		k, _, ok := strings.Cut(text, "=")
		return needs(ok && k != "", "NAME=VALUE is needed")
	}
	if strings.Contains(is, "..") {
		return number(is, text)
	}
	words := strings.Fields(is)
	if words[0] == "?" {
		words[0] = ""
	}
	return needs(slices.Contains(words, text), "allowed are "+quoted(words))
}

func needs(ok bool, what string) string {
	if ok {
		return ""
	}
	return what
}

func number(is, text string) string {
	limits, exception, _ := strings.Cut(is, " or ")
	from, to, _ := strings.Cut(limits, "..")
	n, err := strconv.ParseInt(text, 10, 64)
	low, _ := strconv.ParseInt(from, 10, 64)
	ok := err == nil && n >= low
	what := "a number of at least " + from
	if to != "" {
		high, _ := strconv.ParseInt(to, 10, 64)
		ok, what = ok && n <= high, "a number from "+from+" to "+to
	}
	if exception != "" {
		what += ", or " + exception
	}
	return needs(ok || text == exception, what+" is needed")
}

// cpuList tells whether text is a list of CPUs as cpuset(7) writes it; it may be empty.
func cpuList(text string) bool {
	if text == "" {
		return true
	}
	for part := range strings.SplitSeq(text, ",") {
		from, to, two := strings.Cut(part, "-")
		a, err := strconv.ParseUint(from, 10, 16)
		if err != nil {
			return false
		}
		if b, err := strconv.ParseUint(to, 10, 16); two && (err != nil || b < a) {
			return false
		}
	}
	return true
}

// ParseBytes reads a size: a whole number with B, K, M, G, T (of 1024), optionally
// followed by iB or B.
func ParseBytes(text string) (int64, error) {
	number := strings.TrimRight(text, "BKMGTibkmgt")
	unit := strings.ToUpper(strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(text[len(number):]), "B"), "I"))
	shift := map[string]uint{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
	by, ok := shift[unit]
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if !ok || err != nil || n < 0 || n > 1<<62>>by {
		return 0, errs.Invalid("%q is no size: write for example 12MiB", text)
	}
	return n << by, nil
}

// Set reads an option's value from a text, as flags and variables have it. Lists are
// written with commas.
func (o *Option) Set(text string) error {
	v := o.Value.Addr().Interface()
	var err error
	switch v := v.(type) {
	case *string:
		*v = text
	case *bool:
		*v, err = strconv.ParseBool(text)
	case *int:
		*v, err = strconv.Atoi(text)
	case *int64:
		*v, err = strconv.ParseInt(text, 10, 64)
	case *[]string:
		*v = strings.Split(text, ",")
	case *Duration:
		err = v.UnmarshalText([]byte(text))
	default:
		return fmt.Errorf("the option %s has a type that no text can have: %T", o.Name(), v)
	}
	if err != nil {
		return errs.Invalid("%q: %s is needed", text, wantedType(o.Value))
	}
	return nil
}

// wantedType says in words what an option's value must be.
func wantedType(v reflect.Value) string {
	switch v.Interface().(type) {
	case string:
		return "a text in quotes"
	case bool:
		return "true or false"
	case int, int64, uint64:
		return "a whole number"
	case []string:
		return "a list of texts, [\"a\", \"b\"],"
	case map[string]string:
		return "a table of texts, {a = \"b\"},"
	case Duration:
		return "a duration such as \"30s\" or \"4m\""
	}
	return "a value of another type"
}

// texts lists the values of an option one by one, for verdict.
func (o *Option) texts() []string {
	switch v := o.Value.Interface().(type) {
	case []string:
		return v
	case Duration:
		return []string{time.Duration(v).String()}
	}
	return []string{fmt.Sprint(o.Value.Interface())}
}

// check holds every option against its declaration.
func (c *Config) check(all []Option) (err error) {
	for i := range all {
		o := &all[i]
		for _, text := range o.texts() {
			if need := verdict(o.Is, text); need != "" {
				err = errors.Join(err, c.refuse(o, text, need))
			}
		}
	}
	return err
}

// refuse is the error of a wrong value: where, which, what, and what is allowed.
func (c *Config) refuse(o *Option, value any, allowed string) error {
	if o.Key == "" {
		return errs.Invalid("--%s %q: %s", o.Flag, value, allowed)
	}
	return c.bad(o.Table, o.Key, value, allowed)
}

func (c *Config) bad(table, key string, value any, allowed string) error {
	where := c.origin[table+"."+key]
	if where != "" {
		where += ": "
	}
	return errs.Invalid("%s[%s] %s = %q: %s", where, table, key, fmt.Sprint(value), allowed)
}
