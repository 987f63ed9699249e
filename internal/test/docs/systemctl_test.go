package docs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// managerSocket is where the stand-in for systemd listens in a document's world.
const managerSocket = "/run/units.sock"

// manager stands in for systemd: it runs units of type simple, exec and notify.
type manager struct {
	mu       sync.Mutex
	services map[string]*service
}

type service struct {
	unit    *unit
	cmd     *exec.Cmd
	ended   chan struct{} // of cmd
	stopped bool          // somebody asked for its end
	env     []string
	mu      sync.Mutex // of all above
	journal journal
}

type journal struct {
	mu   sync.Mutex
	list []entry
}

type entry struct {
	at   time.Time
	pid  int
	text string
}

// serveUnits answers systemctl and journalctl until the world ends.
func serveUnits() error {
	l, err := net.Listen("unix", managerSocket)
	if err != nil {
		return err
	}
	m := &manager{services: map[string]*service{}}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var args []string
				if json.NewDecoder(c).Decode(&args) != nil || len(args) == 0 {
					return
				}
				var a answer
				var out bytes.Buffer
				a.Code = m.command(&out, args)
				a.Text = out.String()
				json.NewEncoder(c).Encode(a)
			}()
		}
	}()
	return nil
}

type answer struct {
	Text string
	Code int
}

// askUnits is systemctl and journalctl: it has the manager do what its arguments say.
func askUnits(args []string) int {
	args[0] = filepath.Base(args[0])
	c, err := net.Dial("unix", managerSocket)
	if err == nil {
		defer c.Close()
		err = json.NewEncoder(c).Encode(args)
	}
	var a answer
	if err == nil {
		err = json.NewDecoder(c).Decode(&a)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, args[0]+":", err)
		return 1
	}
	if a.Code != 0 && a.Code != 3 {
		fmt.Fprint(os.Stderr, a.Text)
	} else {
		fmt.Print(a.Text)
	}
	return a.Code
}

func (m *manager) command(w io.Writer, args []string) int {
	if args[0] == "journalctl" {
		return m.showJournal(w, args[1:])
	}
	var verb, signal string
	var names []string
	now, quiet := false, false
	for _, a := range args[1:] {
		switch {
		case a == "--now":
			now = true
		case a == "--quiet" || a == "-q":
			quiet = true
		case a == "--no-pager" || a == "--kill-whom=main": // there is no pager; kill goes to the main process
		case strings.HasPrefix(a, "--signal="):
			signal = strings.TrimPrefix(a, "--signal=")
		case strings.HasPrefix(a, "-"):
			fmt.Fprintf(w, "the stand-in for systemctl has no option %s\n", a)
			return 1
		case verb == "":
			verb = a
		default:
			names = append(names, a)
		}
	}
	if verb == "daemon-reload" {
		return 0 // units are read when they are used
	}
	for _, n := range names {
		var text bytes.Buffer
		code := m.one(&text, verb, n, signal)
		if code == 0 && now && verb == "enable" {
			code = m.one(&text, "start", n, "")
		}
		if code == 0 && now && verb == "disable" {
			code = m.one(&text, "stop", n, "")
		}
		if !quiet || code != 0 && code != 3 {
			w.Write(text.Bytes())
		}
		if code != 0 {
			return code
		}
	}
	return 0
}

// one does one thing to one unit; the result is systemctl's exit status.
func (m *manager) one(w io.Writer, verb, name, signal string) int {
	u, err := readUnit(name)
	if err != nil {
		fmt.Fprintln(w, err)
		return 4
	}
	m.mu.Lock()
	s := m.services[u.name]
	if s == nil {
		s = &service{unit: u}
		m.services[u.name] = s
	}
	m.mu.Unlock()
	wants := filepath.Join("/etc/systemd/system/multi-user.target.wants", u.name)
	switch verb {
	case "start":
		err = s.start(u)
	case "stop":
		s.stop()
	case "restart":
		s.stop()
		err = s.start(u)
	case "reload":
		err = s.reload()
	case "kill":
		err = s.signal(signal)
	case "enable":
		if err = os.MkdirAll(filepath.Dir(wants), 0o755); err == nil {
			os.Remove(wants)
			err = os.Symlink(u.path, wants)
		}
	case "disable":
		os.Remove(wants)
	case "is-enabled":
		if _, err := os.Lstat(wants); err != nil {
			fmt.Fprintln(w, "disabled")
			return 1
		}
		fmt.Fprintln(w, "enabled")
	case "is-active", "status":
		return s.tell(w, verb == "status")
	default:
		err = fmt.Errorf("the stand-in for systemctl cannot %s", verb)
	}
	if err != nil {
		fmt.Fprintf(w, "%s: %v\n", u.name, err)
		return 1
	}
	return 0
}

func (s *service) running() bool {
	if s.cmd == nil {
		return false
	}
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

func (s *service) start(u *unit) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running() {
		return nil
	}
	s.unit, s.stopped = u, false
	return s.launch()
}

// launch runs the unit's command; with s.mu held.
func (s *service) launch() error {
	u := s.unit
	kind := u.last("Type", "simple")
	env, err := u.environ()
	if err != nil {
		return err
	}
	s.env = append([]string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8"}, env...)
	args := expand(u.last("ExecStart", ""), s.env)
	if len(args) == 0 {
		return fmt.Errorf("it has no ExecStart")
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Dir = s.env, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var ready *net.UnixConn
	if kind == "notify" {
		path := "/run/notify-" + u.name
		os.Remove(path)
		if ready, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
			return err
		}
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+path)
	}
	r, wr, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = wr, wr
	err = cmd.Start()
	wr.Close()
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	s.cmd, s.ended = cmd, ended
	go s.collect(r, cmd.Process.Pid)
	go s.wait(cmd, ended)
	if ready == nil {
		return nil
	}
	isReady := make(chan struct{})
	go hear(ready, isReady)
	select {
	case <-isReady:
		go func() { <-ended; ready.Close() }()
		return nil
	case <-ended:
		ready.Close()
		return fmt.Errorf("it ended before it was ready: see journalctl -u %s", u.name)
	}
}

// hear reads what a service tells, to its end; the first READY=1 closes the channel.
func hear(c *net.UnixConn, ready chan struct{}) {
	buf := make([]byte, 4096)
	for told := false; ; {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if !told && slices.Contains(strings.Split(string(buf[:n]), "\n"), "READY=1") {
			told = true
			close(ready)
		}
	}
}

func (s *service) collect(r *os.File, pid int) {
	defer r.Close()
	var rest []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		rest = append(rest, buf[:n]...)
		for {
			line, more, ok := bytes.Cut(rest, []byte("\n"))
			if !ok {
				break
			}
			s.journal.note(pid, string(line))
			rest = more
		}
		if err != nil {
			return
		}
	}
}

func (j *journal) note(pid int, text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.list = append(j.list, entry{time.Now(), pid, text})
}

// wait sees the process end, and starts it again where the unit says so.
func (s *service) wait(cmd *exec.Cmd, ended chan struct{}) {
	err := cmd.Wait()
	s.journal.note(1, fmt.Sprintf("%s: main process ended: %v", s.unit.name, cmd.ProcessState))
	close(ended)
	policy := s.unit.last("Restart", "no")
	if policy != "always" && (policy != "on-failure" || err == nil) {
		return
	}
	time.Sleep(s.unit.seconds("RestartSec", 100*time.Millisecond))
	s.mu.Lock()
	again := !s.stopped && s.cmd == cmd
	s.mu.Unlock()
	if again {
		s.relaunch(cmd)
	}
}

// relaunch is launch without a caller.
func (s *service) relaunch(old *exec.Cmd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped && s.cmd == old {
		if err := s.launch(); err != nil {
			s.journal.note(1, err.Error())
		}
	}
}

// stop ends the main process alone, as KillMode=process says; other modes would end
// children too, of which a kubelet has none.
func (s *service) stop() {
	s.mu.Lock()
	s.stopped = true
	run, cmd, ended := s.running(), s.cmd, s.ended
	s.mu.Unlock()
	if !run {
		return
	}
	cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(90 * time.Second): // systemd's own patience
		cmd.Process.Kill()
		<-ended
	}
}

func (s *service) reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return fmt.Errorf("it does not run")
	}
	args := expand(s.unit.last("ExecReload", ""), append(s.env, "MAINPID="+strconv.Itoa(s.cmd.Process.Pid)))
	if len(args) == 0 {
		return fmt.Errorf("it has no ExecReload")
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (s *service) signal(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := unix.SignalNum("SIG" + strings.TrimPrefix(name, "SIG"))
	if n == 0 || !s.running() {
		return fmt.Errorf("there is no signal %q, or it does not run", name)
	}
	return s.cmd.Process.Signal(n)
}

func (s *service) tell(w io.Writer, long bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, code := "inactive", 3
	if s.running() {
		state, code = "active", 0
	}
	if !long {
		fmt.Fprintln(w, state)
		return code
	}
	fmt.Fprintf(w, "● %s - %s\n     Loaded: loaded (%s)\n     Active: %s\n", s.unit.name, s.unit.last("Description", ""), s.unit.path, state)
	if code == 0 {
		fmt.Fprintf(w, "   Main PID: %d\n", s.cmd.Process.Pid)
	}
	return code
}

func (m *manager) showJournal(w io.Writer, args []string) int {
	var s *service
	last, bare := -1, false
	for i := 0; i < len(args); i++ {
		next := ""
		if i+1 < len(args) {
			next = args[i+1]
		}
		switch args[i] {
		case "-u":
			m.mu.Lock()
			s = m.services[strings.TrimSuffix(next, ".service")+".service"]
			m.mu.Unlock()
			i++
		case "-n":
			last, _ = strconv.Atoi(next)
			i++
		case "-o":
			bare = next == "cat"
			i++
		case "--no-pager", "-b":
		default:
			fmt.Fprintf(w, "the stand-in for journalctl has no option %s\n", args[i])
			return 1
		}
	}
	if s == nil {
		fmt.Fprintln(w, "-- No entries --")
		return 0
	}
	s.journal.mu.Lock()
	list := slices.Clone(s.journal.list)
	s.journal.mu.Unlock()
	if last >= 0 && len(list) > last {
		list = list[len(list)-last:]
	}
	host, _ := os.Hostname()
	for _, e := range list {
		if bare {
			fmt.Fprintln(w, e.text)
			continue
		}
		fmt.Fprintf(w, "%s %s %s[%d]: %s\n", e.at.Format(time.Stamp), host, strings.TrimSuffix(s.unit.name, ".service"), e.pid, e.text)
	}
	return 0
}
