package ocic

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// table prints columns.
type table struct{ rows [][]string }

func newTable(head ...string) *table { return &table{rows: [][]string{head}} }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) print() error {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	for _, r := range t.rows {
		for i := range r {
			if r[i] == "" {
				r[i] = "-"
			}
		}
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}

// printJSON prints a message of the CRI as protobuf's JSON, anything else as Go's.
func printJSON(v any) error {
	var data []byte
	var err error
	if m, ok := v.(proto.Message); ok {
		data, err = protojson.MarshalOptions{Multiline: true, EmitUnpopulated: true}.Marshal(m)
	} else {
		data, err = json.MarshalIndent(v, "", "  ")
	}
	if err == nil {
		_, err = fmt.Println(string(data))
	}
	return err
}

// ago tells how long ago a time is; ns counts nanoseconds since 1970.
func ago(ns int64) string {
	if ns == 0 {
		return ""
	}
	d := time.Since(time.Unix(0, ns))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return fmt.Sprintf("%dd ago", int(d.Hours()/24))
}

// readConfig reads a JSON file as crictl takes it: the CRI's field names, in
// snake_case or lowerCamel; enumerations as numbers or names.
func readConfig(path string, m proto.Message) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot read the configuration: %w", err)
	}
	var raw any
	if err := json.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, place(data, err))
	}
	data, err = json.Marshal(plainValues(raw, ""))
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal(data, m); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	return nil
}

// plainValues turns the values of environment variables, which people write as
// text, into the base64 that protobuf's JSON wants for bytes.
func plainValues(v any, key string) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if text, ok := e.(string); ok && key == "envs" && k == "value" {
				v[k] = []byte(text)
				continue
			}
			v[k] = plainValues(e, k)
		}
	case []any:
		for i := range v {
			v[i] = plainValues(v[i], key)
		}
	}
	return v
}

// place adds the line to an error of package json.
func place(data []byte, err error) error {
	var at int64 = -1
	if e, ok := err.(*json.SyntaxError); ok {
		at = e.Offset
	}
	if at < 0 || at > int64(len(data)) {
		return err
	}
	return fmt.Errorf("line %d: %w", 1+strings.Count(string(data[:at]), "\n"), err)
}
