package spec

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Hosts is the /etc/hosts of a pod, for containers that the kubelet gives none.
func Hosts(hostname string, ips []string) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	for _, ip := range ips {
		fmt.Fprintf(&b, "%s\t%s\n", ip, hostname)
	}
	return b.String()
}

// ResolvConf renders a pod's DNS configuration as resolv.conf(5) has it; "" if there
// is none.
func ResolvConf(dns *cri.DNSConfig) (string, error) {
	if len(dns.GetServers())+len(dns.GetSearches())+len(dns.GetOptions()) == 0 {
		return "", nil
	}
	var b strings.Builder
	for _, line := range []struct {
		word   string
		values []string
		each   bool
	}{
		{"search", dns.GetSearches(), false}, {"nameserver", dns.GetServers(), true}, {"options", dns.GetOptions(), false},
	} {
		for _, v := range line.values {
			if v == "" || strings.ContainsAny(v, " \t\n\r\x00") {
				return "", errs.Invalid("cannot write resolv.conf: dns_config has the %s %q; one word is needed", line.word, v)
			}
			if line.each {
				fmt.Fprintf(&b, "%s %s\n", line.word, v)
			}
		}
		if !line.each && len(line.values) > 0 {
			fmt.Fprintf(&b, "%s %s\n", line.word, strings.Join(line.values, " "))
		}
	}
	return b.String(), nil
}

// Bandwidth reads an annotation of Kubernetes, a quantity of bits per second; 0 if it
// is absent.
func Bandwidth(annotations map[string]string, key string) (uint64, error) {
	text := annotations[key]
	if text == "" {
		return 0, nil
	}
	number, factor := text, uint64(1)
	for _, unit := range []struct {
		suffix string
		factor uint64
	}{{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"k", 1e3}, {"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}} {
		if n, ok := strings.CutSuffix(text, unit.suffix); ok {
			number, factor = n, unit.factor
			break
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || v <= 0 || v*float64(factor) > 1e15 || v*float64(factor) < 1e3 {
		return 0, errs.Invalid("annotation %s = %q: a quantity of bits per second from 1k to 1P is needed, for example 10M", key, text)
	}
	return uint64(v * float64(factor)), nil
}
