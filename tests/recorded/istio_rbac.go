// Turns AuthorizationPolicies (a JSON object of name to YAML on stdin) into Envoy's RBAC filters as istiod does: name to
// a list of filters on stdout. tests/support/istio_recording.py runs it.
package main

import (
	"encoding/json"
	"log"
	"os"

	"istio.io/api/security/v1beta1"
	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/security/authz/builder"
	"istio.io/istio/pilot/pkg/security/trustdomain"
	"istio.io/istio/pkg/util/protomarshal"
)

func main() {
	var given map[string]string
	check(json.NewDecoder(os.Stdin).Decode(&given))
	made := map[string][]json.RawMessage{}
	for name, text := range given {
		configs, _, err := crd.ParseInputs(text)
		check(err)
		var found model.AuthorizationPoliciesResult
		for _, each := range configs {
			spec := each.Spec.(*v1beta1.AuthorizationPolicy)
			policy := model.AuthorizationPolicy{Name: each.Name, Namespace: each.Namespace, Annotations: each.Annotations, Spec: spec}
			switch spec.Action {
			case v1beta1.AuthorizationPolicy_ALLOW:
				found.Allow = append(found.Allow, policy)
			case v1beta1.AuthorizationPolicy_DENY:
				found.Deny = append(found.Deny, policy)
			default:
				log.Fatalf("%s: action %s", name, spec.Action)
			}
		}
		for _, filter := range builder.New(trustdomain.NewBundle("cluster.local", nil), nil, found, builder.Option{}).BuildHTTP() {
			text, err := protomarshal.Marshal(filter)
			check(err)
			made[name] = append(made[name], text)
		}
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", " ")
	check(out.Encode(made))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
