package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Addresses in exported resources must be the same in every run, as their translation is test
// data. The key sets are put in later.
const keysAt = "https://keys.test/"

// exported is the block authentication in Istio's words, by istio export of the gateway's own
// program, and the name of its translation.
func exported(bin, dir string, v *vector) (name, text string, err error) {
	vars := []string{"${jwks_uri}", keysAt + "jwks.json", "${issuer}", "https://issuer.test"}
	for n := range v.MoreJWKS {
		vars = append(vars, "${jwks_uri."+n+"}", keysAt+n+".json")
	}
	block, err := yaml.Marshal(map[string]any{"authentication": fill(v.Config, strings.NewReplacer(vars...))})
	if err != nil {
		return "", "", err
	}
	file := filepath.Join(dir, "export.yaml")
	if err := os.WriteFile(file, block, 0o600); err != nil {
		return "", "", err
	}
	cmd := exec.Command(bin, "istio", "export", "--config", file)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", "", errors.New(strings.TrimSpace(stderr.String()))
	}
	sum := sha256.Sum256(out)
	return hex.EncodeToString(sum[:5]), string(out), nil
}

// sidecar is an Envoy that decides as the sidecar of an agent would, with one listener for each
// configuration.
type sidecar struct {
	dir       string
	agents    *upstreams
	listeners []any
	addresses []string
	cmd       *exec.Cmd
	log       strings.Builder
	done      chan struct{}
}

func newSidecar(dir string) (*sidecar, error) {
	agents, err := newUpstreams("a")
	return &sidecar{dir: dir, agents: agents, done: make(chan struct{})}, err
}

// add gives the address at which requests are judged by a translation (a file of JSON). keys is
// the text of the key set at an address.
func (s *sidecar) add(translation string, keys func(address string) string) (address string, err error) {
	text, err := os.ReadFile(translation)
	if err != nil {
		return "", fmt.Errorf("%w; make istio writes what is missing", err)
	}
	var manager map[string]any
	if err := json.Unmarshal(text, &manager); err != nil {
		return "", fmt.Errorf("%s: %w", translation, err)
	}
	for _, f := range manager["httpFilters"].([]any) {
		config := f.(map[string]any)["typedConfig"].(map[string]any)
		providers, _ := config["providers"].(map[string]any)
		for _, p := range providers {
			set := p.(map[string]any)["localJwks"].(map[string]any)
			var at struct{ At string }
			if err := json.Unmarshal([]byte(set["inlineString"].(string)), &at); err != nil {
				return "", err
			}
			set["inlineString"] = keys(at.At)
		}
	}
	address = freePort()
	host, port, _ := net.SplitHostPort(address)
	s.listeners = append(s.listeners, map[string]any{
		"@type":   "type.googleapis.com/envoy.config.listener.v3.Listener",
		"name":    fmt.Sprintf("l%d", len(s.listeners)),
		"address": map[string]any{"socket_address": map[string]any{"address": host, "port_value": json.Number(port)}},
		"filter_chains": []any{map[string]any{"filters": []any{
			map[string]any{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
		}}},
	})
	s.addresses = append(s.addresses, address)
	return address, nil
}

// start runs Envoy and waits until every listener is up or refused. One that Envoy refuses answers
// nothing, as in a mesh.
func (s *sidecar) start(program string) error {
	host, port, _ := net.SplitHostPort(strings.TrimPrefix(s.agents.urls["a"], "http://"))
	admin := freePort()
	_, adminPort, _ := net.SplitHostPort(admin)
	bootstrap := map[string]any{
		"node": map[string]any{"id": "agent", "cluster": "agent"},
		"admin": map[string]any{"address": map[string]any{"socket_address": map[string]any{"address": "127.0.0.1",
			"port_value": json.Number(adminPort)}}},
		"dynamic_resources": map[string]any{"lds_config": map[string]any{"resource_api_version": "V3",
			"path_config_source": map[string]any{"path": filepath.Join(s.dir, "listeners.json")}}},
		"static_resources": map[string]any{"clusters": []any{map[string]any{"name": "inbound|8080||", "type": "STATIC",
			"connect_timeout": "5s",
			"load_assignment": map[string]any{"cluster_name": "inbound|8080||", "endpoints": []any{map[string]any{"lb_endpoints": []any{
				map[string]any{"endpoint": map[string]any{"address": map[string]any{"socket_address": map[string]any{"address": host,
					"port_value": json.Number(port)}}}}}}}}}}},
	}
	for name, v := range map[string]any{"bootstrap.json": bootstrap, "listeners.json": map[string]any{"version_info": "1",
		"resources": s.listeners}} {
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(s.dir, name), text, 0o600); err != nil {
			return err
		}
	}
	log, err := os.Create(filepath.Join(s.dir, "envoy.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(program, "-c", filepath.Join(s.dir, "bootstrap.json"), "--disable-hot-restart", "--concurrency", "1", "-l",
		"warning")
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	running.Store(s.cmd.Process, true)
	go func() {
		s.cmd.Wait()
		running.Delete(s.cmd.Process)
		close(s.done)
	}()
	return s.awaitUp()
}

// awaitUp waits for the first listener that Envoy takes; it gets all of them at once, and a
// refused one never comes.
func (s *sidecar) awaitUp() error {
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); {
		for _, address := range s.addresses {
			if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
				c.Close()
				time.Sleep(200 * time.Millisecond) // for the workers to take up the rest
				return nil
			}
		}
		select {
		case <-s.done:
			return fmt.Errorf("Envoy ended: %s", s.lastWords())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("no listener of Envoy within %v: %s", startLimit, s.lastWords())
}

func (s *sidecar) lastWords() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "envoy.log"))
	if len(text) > 2000 {
		text = text[len(text)-2000:]
	}
	return string(text)
}

func (s *sidecar) stop() {
	s.agents.close()
	if s.cmd != nil && s.cmd.Process != nil {
		s.cmd.Process.Kill()
		<-s.done
	}
}
