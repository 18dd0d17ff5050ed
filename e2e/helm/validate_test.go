package helm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/apps"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	autoscalingvalidation "k8s.io/kubernetes/pkg/apis/autoscaling/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/apis/networking"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	networkingvalidation "k8s.io/kubernetes/pkg/apis/networking/validation"
	"k8s.io/kubernetes/pkg/apis/policy"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	policyvalidation "k8s.io/kubernetes/pkg/apis/policy/validation"
	"sigs.k8s.io/yaml"
)

// cluster holds objects against the checks that an API server makes before it stores them.
type cluster struct {
	builtin runtime.Decoder
	custom  map[string]*resource // by apiVersion and kind
}

// resource is one version of a custom resource.
type resource struct {
	structural *schema.Structural
	validator  crdvalidation.SchemaValidator
	rules      *cel.Validator
}

// newCluster reads the custom resources from the modules that define them.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{
		builtin: serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict).UniversalDecoder(),
		custom:  map[string]*resource{},
	}
	for module, pattern := range map[string]string{
		"istio.io/api":            "kubernetes/customresourcedefinitions.gen.yaml",
		"sigs.k8s.io/gateway-api": "config/crd/standard/*routes.yaml",
		"github.com/prometheus-operator/prometheus-operator": "example/prometheus-operator-crd/*servicemonitors.yaml",
	} {
		dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
		if err != nil {
			t.Fatalf("%s: %v", module, err)
		}
		files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s has no %s", module, pattern)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, document := range documents(string(text)) {
				c.define(t, document)
			}
		}
	}
	return c
}

// define adds the versions of one CustomResourceDefinition.
func (c *cluster) define(t *testing.T, document string) {
	t.Helper()
	var v1 apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal([]byte(document), &v1); err != nil {
		t.Fatal(err)
	}
	if v1.Kind != "CustomResourceDefinition" {
		return
	}
	apiextensionsv1.SetDefaults_CustomResourceDefinition(&v1)
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&v1.Spec)
	for _, version := range v1.Spec.Versions {
		if !version.Served {
			continue
		}
		var props apiextensions.JSONSchemaProps
		convert := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps
		if err := convert(version.Schema.OpenAPIV3Schema, &props, nil); err != nil {
			t.Fatal(err)
		}
		structural, err := schema.NewStructural(&props)
		if err != nil {
			t.Fatal(err)
		}
		validator, _, err := crdvalidation.NewSchemaValidator(&props)
		if err != nil {
			t.Fatal(err)
		}
		c.custom[v1.Spec.Group+"/"+version.Name+" "+v1.Spec.Names.Kind] = &resource{
			structural, validator, cel.NewValidator(structural, true, celconfig.PerCallLimit),
		}
	}
}

// check returns why an API server would refuse an object.
func (c *cluster) check(document string) error {
	var object unstructured.Unstructured
	text, err := yaml.YAMLToJSONStrict([]byte(document))
	if err != nil {
		return err
	}
	if err := object.UnmarshalJSON(text); err != nil {
		return err
	}
	if r, ok := c.custom[object.GetAPIVersion()+" "+object.GetKind()]; ok {
		return r.check(object.Object)
	}
	decoded, _, err := c.builtin.Decode([]byte(document), nil, nil)
	if err != nil {
		return err
	}
	return checkBuiltin(decoded).ToAggregate()
}

func (r *resource) check(object map[string]any) error {
	defaulting.Default(object, r.structural)
	var unknown []error
	track := schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	for _, path := range pruning.PruneWithOptions(object, r.structural, true, track) {
		unknown = append(unknown, fmt.Errorf("unknown field %s", path))
	}
	errs := crdvalidation.ValidateCustomResource(nil, object, r.validator)
	rules, _ := r.rules.Validate(context.Background(), nil, r.structural, object, nil, celconfig.RuntimeCELCostBudget)
	if err := append(errs, rules...).ToAggregate(); err != nil {
		unknown = append(unknown, err)
	}
	return errors.Join(unknown...)
}

// checkBuiltin asks the code of the API server. An object of another kind than the chart's is an
// error, so that none goes unchecked.
func checkBuiltin(object runtime.Object) field.ErrorList {
	switch o := object.(type) {
	case *apps.Deployment:
		return appsvalidation.ValidateDeployment(o, corevalidation.PodValidationOptions{})
	case *core.Service:
		// What the API server fills in before it validates.
		if o.Spec.ClusterIP != "" {
			o.Spec.ClusterIPs = []string{o.Spec.ClusterIP}
		}
		if o.Spec.ExternalTrafficPolicy == core.ServiceExternalTrafficPolicyLocal {
			o.Spec.HealthCheckNodePort = 30000
		}
		return corevalidation.ValidateServiceCreate(o)
	case *core.ConfigMap:
		return corevalidation.ValidateConfigMap(o)
	case *core.ServiceAccount:
		return corevalidation.ValidateServiceAccount(o)
	case *autoscaling.HorizontalPodAutoscaler:
		var options autoscalingvalidation.HorizontalPodAutoscalerSpecValidationOptions
		return autoscalingvalidation.ValidateHorizontalPodAutoscaler(o, options)
	case *policy.PodDisruptionBudget:
		return policyvalidation.ValidatePodDisruptionBudget(o, policyvalidation.PodDisruptionBudgetValidationOptions{})
	case *networking.NetworkPolicy:
		return networkingvalidation.ValidateNetworkPolicy(o, networkingvalidation.NetworkPolicyValidationOptions{})
	}
	return field.ErrorList{field.NotSupported(field.NewPath("kind"), fmt.Sprintf("%T", object), []string{"the kinds of the chart"})}
}

// documents are those of a stream of YAML that say something.
func documents(text string) (all []string) {
	for _, document := range strings.Split("\n"+text, "\n---") {
		var content any
		if yaml.Unmarshal([]byte(document), &content) != nil || content != nil {
			all = append(all, string(bytes.TrimSpace([]byte(document))))
		}
	}
	return all
}
