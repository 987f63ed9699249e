package nft

import (
	"errors"
	"fmt"
	"net"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// What iptables-nft calls its table and chain of forwarded packets.
const (
	foreignTable = "filter"
	foreignChain = "FORWARD"
)

// AcceptForwarded lets packets from and to these addresses pass where iptables-nft
// (ip and ip6 table filter, chain FORWARD) would drop them by its policy. Its rules
// use only what iptables itself writes, so that the tool can still list and save
// the chain. Where no such chain is, nothing is done.
func AcceptForwarded(o Owner, ips []net.IP) error {
	return foreign(func(c *nftables.Conn, chain *nftables.Chain, rules []*nftables.Rule) {
		if chain.Policy == nil || *chain.Policy != nftables.ChainPolicyDrop {
			return
		}
		for _, ip := range ips {
			f, _ := FamilyOf(ip)
			if uint8(chain.Table.Family) != f || hasRule(rules, o) {
				continue
			}
			for _, addr := range [][]expr.Any{Src(f, 0), Dst(f, 0)} {
				// The rule's registers are the four big ones, as iptables writes them.
				addr[0].(*expr.Payload).DestRegister = unix.NFT_REG_1
				c.InsertRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: append(addr,
					&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: IP(ip)},
					&expr.Counter{},
					&expr.Verdict{Kind: expr.VerdictAccept}),
					UserData: userdata.AppendString(nil, userdata.TypeComment, o.comment())})
			}
		}
	})
}

// RevokeForwarded deletes the rules that AcceptForwarded made for owners that are
// gone.
func RevokeForwarded(gone func(Owner) bool) error {
	return foreign(func(c *nftables.Conn, _ *nftables.Chain, rules []*nftables.Rule) {
		for _, r := range rules {
			if o, ok := ruleOwner(r); ok && gone(o) {
				_ = c.DelRule(r) // fails only for a rule without handle
			}
		}
	})
}

func hasRule(rules []*nftables.Rule, o Owner) bool {
	for _, r := range rules {
		if p, ok := ruleOwner(r); ok && p.Is(o) {
			return true
		}
	}
	return false
}

func ruleOwner(r *nftables.Rule) (Owner, bool) {
	s, ok := userdata.GetString(r.UserData, userdata.TypeComment)
	if !ok {
		return Owner{}, false
	}
	return parseOwner(s)
}

// foreign calls f for each of the two chains that is there, under the lock, and
// commits what it queues.
func foreign(f func(*nftables.Conn, *nftables.Chain, []*nftables.Rule)) error {
	t := &Table{Name: foreignTable, Family: nftables.TableFamilyUnspecified}
	return t.locked(func(k *conn) error {
		for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
			table := &nftables.Table{Name: foreignTable, Family: family}
			if _, err := k.c.ListTableOfFamily(foreignTable, family); none(err) {
				continue
			} else if err != nil {
				return fmt.Errorf("cannot look for table %s: %w", foreignTable, err)
			}
			chain, err := forwardChain(k.c, family)
			if err != nil {
				return fmt.Errorf("cannot look for chain %s: %w", foreignChain, err)
			}
			if chain == nil {
				continue
			}
			rules, err := k.c.GetRules(table, chain)
			if err != nil {
				return fmt.Errorf("cannot list chain %s: %w", foreignChain, err)
			}
			chain.Table = table
			f(k.c, chain, rules)
		}
		return k.flush()
	})
}

// forwardChain finds the chain; nil if there is none.
func forwardChain(c *nftables.Conn, family nftables.TableFamily) (*nftables.Chain, error) {
	chains, err := c.ListChainsOfTableFamily(family)
	for _, ch := range chains {
		if ch.Name == foreignChain && ch.Table.Name == foreignTable {
			return ch, nil
		}
	}
	return nil, err
}

// none tells whether there is no such chain, or no nf_tables to have one.
func none(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) ||
		errors.Is(err, unix.EAFNOSUPPORT) || errs.Is(err, errs.KindUnimplemented)
}
