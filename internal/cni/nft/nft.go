// Package nft keeps the network plugins' packet filter: a few tables of our own,
// each with a fixed set of rules, in which a pod is nothing but elements of sets.
//
// Every element carries its owner (network, pod, interface) as comment, so that
// what belongs to a pod is found without knowing anything else about it: DEL and
// GC need only names. A table is made when its first element arrives and goes with
// its last one, in the same transaction; in between, adding a pod never touches a
// rule. A lock per network namespace (flock on the namespace itself, so it is
// shared with other processes that use this package and needs no file) makes look
// and change one step.
//
// Everything goes over netlink; no tool of the host is used. Tables of others
// (nft, iptables-nft, firewalld) are neither read nor changed. The kernel must have
// nf_tables, in family inet with NAT (5.2) and sets of ranges in more than one
// dimension (5.6); one without is answered with errs.KindUnimplemented.
//
// The package must be called on a thread that stays in one network namespace. It
// knows no plugin.
package nft

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// Table describes one of our tables. Whoever changes what is in it gives it
// another name, so that pods of an earlier release keep the rules that they know.
type Table struct {
	Name   string
	Family nftables.TableFamily
	Sets   []Set
	Chains []Chain
}

// Set describes a set, or a map if it has a data type.
type Set struct {
	Name string
	Key  []nftables.SetDatatype
	Data []nftables.SetDatatype
	// Ranges says that keys are ranges (Element.End is set).
	Ranges bool
	// Shared sets have elements without an owner. Such an element stays as long as
	// an owned element of another set has a key that begins with its key.
	Shared bool
}

// Chain describes a chain with its rules. Without Type it is entered by a jump.
type Chain struct {
	Name     string
	Type     nftables.ChainType
	Hook     *nftables.ChainHook
	Priority *nftables.ChainPriority
	Rules    [][]expr.Any
}

// Element is an element of the set of that name: a key, for ranges its end, for
// maps its value, each in the kernel's layout (fields padded to four bytes).
type Element struct {
	Set             string
	Key, End, Value []byte
}

// Owner says whose an element is. It is the element's comment.
type Owner struct{ Network, ID, IfName string }

// comment puts an owner into at most 120 characters (the tool nft shows 128).
// Names that are too long are replaced by a digest.
func (o Owner) comment() string {
	short := func(s string, n int) string {
		if len(s) <= n {
			return s
		}
		sum := sha256.Sum256([]byte(s))
		return "#" + hex.EncodeToString(sum[:12])
	}
	return short(o.Network, 30) + " " + short(o.ID, 70) + " " + o.IfName
}

// parseOwner is the reverse of comment; ok is false for a comment that is none of
// ours.
func parseOwner(s string) (o Owner, ok bool) {
	f := strings.Split(s, " ")
	if len(f) != 3 {
		return o, false
	}
	return Owner{f[0], f[1], f[2]}, true
}

// Is tells whether o and p are the same, one of them perhaps as it was read from
// the kernel, shortened.
func (o Owner) Is(p Owner) bool { return o.comment() == p.comment() }

// Conflict is called when another owner's element has the key of a new one. An
// error refuses the new element; nil replaces the old one.
type Conflict func(e Element, old Owner, oldValue []byte) error

// Add gives elements to an owner, and makes the table if it is not there. Elements
// that the owner already has stay. conflict may be nil: newcomers win, because an
// address has been given to them.
func (t *Table) Add(o Owner, elems []Element, conflict Conflict) error {
	return t.locked(func(c *conn) error {
		there, err := c.exists()
		if err != nil {
			return err
		}
		if !there {
			if err := c.create(); err != nil {
				return err
			}
		}
		for i, s := range t.Sets {
			var old []nftables.SetElement
			wanted := ofSet(elems, s.Name)
			if len(wanted) == 0 {
				continue
			}
			if there {
				if old, err = c.c.GetSetElements(c.sets[i]); err != nil {
					return fmt.Errorf("cannot list set %s: %w", s.Name, err)
				}
			}
			if err := c.addTo(i, o, wanted, old, conflict); err != nil {
				return err
			}
		}
		return c.flush()
	})
}

func ofSet(elems []Element, name string) (out []Element) {
	for _, e := range elems {
		if e.Set == name {
			out = append(out, e)
		}
	}
	return out
}

// addTo queues the elements of one set.
func (c *conn) addTo(i int, o Owner, wanted []Element, old []nftables.SetElement, conflict Conflict) error {
	var add, del []nftables.SetElement
	for _, e := range wanted {
		n := nftables.SetElement{Key: e.Key, KeyEnd: e.End, Val: e.Value}
		if !c.t.Sets[i].Shared {
			n.Comment = o.comment()
		}
		was := find(old, e)
		switch {
		case was == nil:
		case was.Comment == n.Comment && bytes.Equal(was.Val, n.Val):
			continue
		default:
			owner, _ := parseOwner(was.Comment)
			if conflict != nil && !owner.Is(o) {
				if err := conflict(e, owner, was.Val); err != nil {
					return err
				}
			}
			del = append(del, bare(*was))
		}
		add = append(add, n)
	}
	return errors.Join(c.change(c.c.SetDeleteElements, i, del), c.change(c.c.SetAddElements, i, add))
}

func find(elems []nftables.SetElement, e Element) *nftables.SetElement {
	for i := range elems {
		if bytes.Equal(elems[i].Key, e.Key) && (e.End == nil || bytes.Equal(elems[i].KeyEnd, e.End)) {
			return &elems[i]
		}
	}
	return nil
}

// bare is an element as it is named for deletion.
func bare(e nftables.SetElement) nftables.SetElement {
	return nftables.SetElement{Key: e.Key, KeyEnd: e.KeyEnd}
}

// Remove deletes the elements of every owner for whom gone is true, and the table
// if nothing is left in it. It returns the owners whose elements went. A table
// that is not there, or a kernel without nf_tables, has nothing to delete.
func (t *Table) Remove(gone func(Owner) bool) ([]Owner, error) {
	var removed []Owner
	err := t.locked(func(c *conn) error {
		there, err := c.exists()
		if err != nil || !there {
			if errs.Is(err, errs.KindUnimplemented) {
				return nil
			}
			return err
		}
		all, err := c.list()
		if err != nil {
			return err
		}
		left := 0
		seen := map[Owner]bool{}
		for i := range t.Sets {
			if t.Sets[i].Shared {
				continue
			}
			var del []nftables.SetElement
			keep := all[i][:0]
			for _, e := range all[i] {
				if o, ok := parseOwner(e.Comment); ok && gone(o) {
					del = append(del, bare(e))
					if !seen[o] {
						seen[o], removed = true, append(removed, o)
					}
					continue
				}
				keep = append(keep, e)
			}
			all[i], left = keep, left+len(keep)
			if err := c.change(c.c.SetDeleteElements, i, del); err != nil {
				return err
			}
		}
		if left == 0 {
			c.c.DelTable(c.table)
		} else if err := c.prune(all); err != nil {
			return err
		}
		return c.flush()
	})
	return removed, err
}

// prune queues the deletion of shared elements that no owned element stands on.
func (c *conn) prune(all [][]nftables.SetElement) error {
	for i, s := range c.t.Sets {
		if !s.Shared {
			continue
		}
		var del []nftables.SetElement
		for _, e := range all[i] {
			if !c.used(e.Key, all) {
				del = append(del, bare(e))
			}
		}
		if err := c.change(c.c.SetDeleteElements, i, del); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) used(key []byte, all [][]nftables.SetElement) bool {
	for i, s := range c.t.Sets {
		for _, e := range all[i] {
			if !s.Shared && bytes.HasPrefix(e.Key, key) {
				return true
			}
		}
	}
	return false
}

// Missing returns how many of the elements the owner does not have.
func (t *Table) Missing(o Owner, elems []Element) (int, error) {
	missing := len(elems)
	err := t.locked(func(c *conn) error {
		there, err := c.exists()
		if err != nil || !there {
			return err
		}
		for i, s := range t.Sets {
			wanted := ofSet(elems, s.Name)
			if len(wanted) == 0 {
				continue
			}
			old, err := c.c.GetSetElements(c.sets[i])
			if err != nil {
				return err
			}
			for _, e := range wanted {
				if was := find(old, e); was != nil && (s.Shared || was.Comment == o.comment()) && bytes.Equal(was.Val, e.Value) {
					missing--
				}
			}
		}
		return nil
	})
	return missing, err
}

// Supported tells whether the kernel has nf_tables: nil or an error of
// errs.KindUnimplemented.
func Supported() error {
	t := &Table{Name: "monocrio_probe", Family: nftables.TableFamilyINet}
	return t.locked(func(c *conn) error {
		_, err := c.exists()
		return err
	})
}

// conn is a table and a socket, while the lock is held.
type conn struct {
	t     *Table
	c     *nftables.Conn
	table *nftables.Table
	sets  []*nftables.Set
}

// patience bounds each answer of the kernel.
const patience = 20 * time.Second

// linger is how long a socket is kept after its last use.
const linger = 200 * time.Millisecond

// locked runs f under the namespace's lock.
func (t *Table) locked(f func(*conn) error) error {
	lock, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("cannot lock the packet filter: %w", err)
	}
	defer lock.Close()
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return fmt.Errorf("cannot lock the packet filter: %w", err)
	}
	deadline := func(c *netlink.Conn) error { return c.SetDeadline(time.Now().Add(patience)) }
	c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(deadline))
	if err != nil {
		return unsupported(t, err)
	}
	// Soon after something was deleted the end of a socket makes the kernel wait, ten
	// milliseconds and more and with its own lock held, until the memory is free.
	// Later there is nothing to wait for.
	defer time.AfterFunc(linger, func() { _ = c.CloseLasting() })
	k := &conn{t: t, c: c, table: &nftables.Table{Name: t.Name, Family: t.Family}}
	for i, s := range t.Sets {
		// The number is given here because the library would count in a variable
		// that goroutines share.
		set := &nftables.Set{Table: k.table, ID: uint32(i + 1), Name: s.Name, KeyType: concat(s.Key), Concatenation: len(s.Key) > 1, Interval: s.Ranges}
		if s.Data != nil {
			set.IsMap, set.DataType = true, concat(s.Data)
		}
		k.sets = append(k.sets, set)
	}
	if err := f(k); err != nil {
		return fmt.Errorf("cannot change nftables table %s: %w", t.Name, err)
	}
	return nil
}

func concat(types []nftables.SetDatatype) nftables.SetDatatype {
	if len(types) == 1 {
		return types[0]
	}
	return nftables.MustConcatSetType(types...)
}

func unsupported(t *Table, err error) error {
	return errs.Unimplemented("cannot use nftables table %s: this kernel answers %w; load or compile in nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_MASQ, CONFIG_NFT_FIB_INET)", t.Name, err)
}

// exists tells whether the table is there.
func (c *conn) exists() (bool, error) {
	_, err := c.c.ListTableOfFamily(c.t.Name, c.t.Family)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EPROTONOSUPPORT):
		return false, unsupported(c.t, err)
	}
	return false, err
}

// create queues the table with its sets, chains and rules.
func (c *conn) create() error {
	c.c.AddTable(c.table)
	for _, s := range c.sets {
		if err := c.c.AddSet(s, nil); err != nil {
			return fmt.Errorf("cannot describe set %s: %w", s.Name, err)
		}
	}
	chains := make([]*nftables.Chain, len(c.t.Chains))
	for i, ch := range c.t.Chains {
		chains[i] = c.c.AddChain(&nftables.Chain{Name: ch.Name, Table: c.table, Type: ch.Type, Hooknum: ch.Hook, Priority: ch.Priority})
	}
	for i, ch := range c.t.Chains {
		for _, rule := range ch.Rules {
			c.c.AddRule(&nftables.Rule{Table: c.table, Chain: chains[i], Exprs: rule})
		}
	}
	return nil
}

// change queues elements of one set, few enough at a time for one attribute.
func (c *conn) change(f func(*nftables.Set, []nftables.SetElement) error, i int, elems []nftables.SetElement) error {
	for len(elems) > 0 {
		n := min(len(elems), 100)
		if err := f(c.sets[i], elems[:n]); err != nil {
			return err
		}
		elems = elems[n:]
	}
	return nil
}

// list returns the elements of all sets.
func (c *conn) list() ([][]nftables.SetElement, error) {
	all := make([][]nftables.SetElement, len(c.sets))
	for i, s := range c.sets {
		var err error
		if all[i], err = c.c.GetSetElements(s); err != nil {
			return nil, fmt.Errorf("cannot list set %s: %w", s.Name, err)
		}
	}
	return all, nil
}

// flush commits what is queued.
func (c *conn) flush() error {
	err := c.c.Flush()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) {
		// Under the lock nothing of ours can be missing, so it is an expression or a
		// chain type that the kernel was built without.
		return unsupported(c.t, err)
	}
	return err
}
