package world

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// trailer is how a test's file ends behind which scripts/test-arm64 has put the executable,
// for machines to which one file can be brought and no environment: the word, and the
// executable's size in digits.
const trailer = "monocrio"

const trailerSize = len(trailer) + 16

// behind copies the executable out of the test's own file; "" if there is none.
func behind() (string, error) {
	own, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer own.Close()
	fi, err := own.Stat()
	if err != nil || fi.Size() < int64(trailerSize) {
		return "", err
	}
	end := make([]byte, trailerSize)
	if _, err := own.ReadAt(end, fi.Size()-int64(trailerSize)); err != nil {
		return "", err
	}
	digits, found := strings.CutPrefix(string(end), trailer)
	if !found {
		return "", nil
	}
	size, err := strconv.ParseInt(strings.TrimLeft(digits, "0"), 10, 64)
	if err != nil || size > fi.Size() {
		return "", fmt.Errorf("the executable behind this test has no size: %q", end)
	}
	dir, err := os.MkdirTemp("", "monocrio-bin")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "monocrio")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	defer out.Close()
	_, err = io.Copy(out, io.NewSectionReader(own, fi.Size()-int64(trailerSize)-size, size))
	return path, err
}
