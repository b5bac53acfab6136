package apiserver

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ownFlowSchemas give plugins the places that upstream's suggested ones give its own
// components, by users that do not exist here: without, controllers and scheduler queue
// with all other users for a twelfth of the server (global-default), and simulated
// nodes look dead where real ones would not. They may be changed as suggested ones.
var ownFlowSchemas = []*flowcontrolv1.FlowSchema{
	flowTo("keelson-plugins", "workload-high", 810, flowcontrolv1.Subject{
		Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: "system:plugins"},
	}, anyResource(), anyPath()),
	// As kubelets: heartbeats first (system-node-high), then all else (system-nodes).
	flowTo("keelson-sim-heartbeats", "node-high", 410, simulator, flowcontrolv1.PolicyRulesWithSubjects{
		ResourceRules: []flowcontrolv1.ResourcePolicyRule{
			resources(corev1.GroupName, "nodes", "nodes/status"), resources(coordinationv1.GroupName, "leases"),
		},
	}),
	flowTo("keelson-sim", "system", 510, simulator, anyResource()),
}

// simulator is who plays simulated nodes.
var simulator = flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: "system:plugin:sim"}}

// flowTo sends what one subject asks by the rules to a priority level, fairly by user.
func flowTo(name, level string, precedence int32, subject flowcontrolv1.Subject, rules ...flowcontrolv1.PolicyRulesWithSubjects) *flowcontrolv1.FlowSchema {
	for i := range rules {
		rules[i].Subjects = []flowcontrolv1.Subject{subject}
	}
	return &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level},
			MatchingPrecedence:         precedence,
			DistinguisherMethod:        &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
			Rules:                      rules,
		},
	}
}

func resources(group string, names ...string) flowcontrolv1.ResourcePolicyRule {
	return flowcontrolv1.ResourcePolicyRule{
		Verbs: []string{rbacv1.VerbAll}, APIGroups: []string{group}, Resources: names,
		ClusterScope: true, Namespaces: []string{flowcontrolv1.NamespaceEvery},
	}
}

func anyResource() flowcontrolv1.PolicyRulesWithSubjects {
	return flowcontrolv1.PolicyRulesWithSubjects{ResourceRules: []flowcontrolv1.ResourcePolicyRule{resources(rbacv1.APIGroupAll, rbacv1.ResourceAll)}}
}

func anyPath() flowcontrolv1.PolicyRulesWithSubjects {
	return flowcontrolv1.PolicyRulesWithSubjects{NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{
		{Verbs: []string{rbacv1.VerbAll}, NonResourceURLs: []string{rbacv1.NonResourceAll}},
	}}
}
