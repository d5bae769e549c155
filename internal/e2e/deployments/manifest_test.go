package deployments

import (
	"errors"
	"io"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// These are what the examples use of Kubernetes' objects. Any other field is an error when one is read, so a typing error
// is one. What a patch deletes has patch.

type metadata struct {
	Name   string
	Labels map[string]string
}

type kind struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   metadata
}

type kustomization struct {
	kind      `yaml:",inline"`
	Resources []string
	Patches   []struct{ Path string }
}

type configMap struct {
	kind `yaml:",inline"`
	Data map[string]string
}

type serviceAccount struct {
	kind      `yaml:",inline"`
	Automount *bool `yaml:"automountServiceAccountToken"`
}

type service struct {
	kind `yaml:",inline"`
	Spec struct {
		Selector map[string]string
		Ports    []struct {
			Name       string
			Port       int
			TargetPort string `yaml:"targetPort"`
		}
	}
}

type labelSelector struct {
	MatchLabels map[string]string `yaml:"matchLabels"`
}

type networkPolicy struct {
	kind `yaml:",inline"`
	Spec struct {
		PodSelector labelSelector `yaml:"podSelector"`
		PolicyTypes []string      `yaml:"policyTypes"`
		Ingress     []struct {
			From  []peer
			Ports []port
		}
		Egress []struct {
			To    []peer
			Ports []port
		}
	}
}

type peer struct {
	NamespaceSelector *labelSelector `yaml:"namespaceSelector"`
	PodSelector       *labelSelector `yaml:"podSelector"`
	IPBlock           *struct {
		CIDR   string
		Except []string
	} `yaml:"ipBlock"`
}

type port struct{ Port, Protocol string }

type deployment struct {
	kind `yaml:",inline"`
	Spec struct {
		Replicas int
		Selector labelSelector
		Strategy struct {
			RollingUpdate map[string]int `yaml:"rollingUpdate"`
		}
		Template struct {
			Metadata metadata
			Spec     podSpec
		}
	}
}

type podSpec struct {
	ServiceAccount  string `yaml:"serviceAccountName"`
	Automount       *bool  `yaml:"automountServiceAccountToken"`
	GracePeriod     int    `yaml:"terminationGracePeriodSeconds"`
	SecurityContext struct {
		NonRoot bool              `yaml:"runAsNonRoot"`
		User    int               `yaml:"runAsUser"`
		Group   int               `yaml:"runAsGroup"`
		FSGroup int               `yaml:"fsGroup"`
		Seccomp map[string]string `yaml:"seccompProfile"`
	} `yaml:"securityContext"`
	Containers []container
	Volumes    []podVolume
}

type container struct {
	Name, Image string
	Ports       []struct {
		Name   string
		Number int `yaml:"containerPort"`
	}
	Env             []struct{ Name, Value string }
	Resources       struct{ Requests, Limits map[string]string }
	SecurityContext struct {
		Escalation     *bool `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFS bool  `yaml:"readOnlyRootFilesystem"`
		Capabilities   struct{ Drop []string }
	} `yaml:"securityContext"`
	Startup   probe         `yaml:"startupProbe"`
	Readiness probe         `yaml:"readinessProbe"`
	Liveness  probe         `yaml:"livenessProbe"`
	Mounts    []volumeMount `yaml:"volumeMounts"`
}

type volumeMount struct {
	Name     string
	Path     string `yaml:"mountPath"`
	ReadOnly bool   `yaml:"readOnly"`
	Patch    string `yaml:"$patch"`
}

type podVolume struct {
	Name      string
	Patch     string                `yaml:"$patch"`
	ConfigMap struct{ Name string } `yaml:"configMap"`
	EmptyDir  *struct{}             `yaml:"emptyDir"`
	Secret    struct {
		Name string `yaml:"secretName"`
		Mode int    `yaml:"defaultMode"`
	}
	Projected struct {
		Sources []struct {
			Token struct {
				Path, Audience string
				Expires        int `yaml:"expirationSeconds"`
			} `yaml:"serviceAccountToken"`
		}
	}
}

// manifest are the objects of a file, by their kinds.
type manifest struct {
	configMap      configMap
	serviceAccount serviceAccount
	service        service
	networkPolicy  networkPolicy
	deployment     deployment
	kustomization  kustomization
}

func readManifest(t *testing.T, path string) manifest {
	t.Helper()
	var m manifest
	types := map[string]struct {
		apiVersion string
		into       any
	}{
		"ConfigMap":      {"v1", &m.configMap},
		"ServiceAccount": {"v1", &m.serviceAccount},
		"Service":        {"v1", &m.service},
		"NetworkPolicy":  {"networking.k8s.io/v1", &m.networkPolicy},
		"Deployment":     {"apps/v1", &m.deployment},
		"Kustomization":  {"kustomize.config.k8s.io/v1beta1", &m.kustomization},
	}
	documents := yaml.NewDecoder(strings.NewReader(read(t, path)))
	for {
		var document yaml.Node
		err := documents.Decode(&document)
		if errors.Is(err, io.EOF) {
			return m
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		var k struct {
			APIVersion string `yaml:"apiVersion"`
			Kind       string
		}
		if err := document.Decode(&k); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		known, ok := types[k.Kind]
		if !ok || known.apiVersion != k.APIVersion {
			t.Fatalf("%s: %s is not a kind of %s", path, k.Kind, k.APIVersion)
		}
		text, err := yaml.Marshal(&document)
		if err != nil {
			t.Fatal(err)
		}
		decodeStrictly(t, path, string(text), known.into)
		delete(types, k.Kind)
	}
}

// decodeStrictly reads YAML that has no fields but the known ones.
func decodeStrictly(t *testing.T, path, text string, into any) {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
