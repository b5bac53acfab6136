package flowcontrol

import (
	"fmt"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"

	"keelson.dev/keelson/core/registry/resource"
)

// Defaults and bounds of a limited priority level, in shares and numbers of queues and requests.
const (
	defaultShares      = 30
	defaultQueues      = 64
	defaultHandSize    = 8
	defaultQueueLength = 50
	maxQueues          = 10 * 1000 * 1000
)

var priorityLevels = &resource.Definition[*flowcontrolv1.PriorityLevelConfiguration]{
	GroupVersion: version, Kind: "PriorityLevelConfiguration", Plural: "prioritylevelconfigurations", Singular: "prioritylevelconfiguration",
	ClusterScoped: true,
	New:           func() *flowcontrolv1.PriorityLevelConfiguration { return &flowcontrolv1.PriorityLevelConfiguration{} },
	NewList:       func() runtime.Object { return &flowcontrolv1.PriorityLevelConfigurationList{} },
	Spec:          func(l *flowcontrolv1.PriorityLevelConfiguration) any { return &l.Spec },
	Status:        func(l *flowcontrolv1.PriorityLevelConfiguration) any { return &l.Status },
	Default:       defaultPriorityLevel,
	Validate:      validatePriorityLevel,
	ValidateStatus: func(l, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
		return validateConditions(l.Status.Conditions, func(c flowcontrolv1.PriorityLevelConfigurationCondition) string { return string(c.Type) })
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Type", "string", "Whether its requests are limited."),
		resource.Column("NominalConcurrencyShares", "string", "Its share of the server's concurrency."),
		resource.Column("Queues", "string", "How many queues it has."),
		resource.Column("HandSize", "string", "From how many queues a request takes the shortest."),
		resource.Column("QueueLengthLimit", "string", "How many requests may wait in a queue."),
		resource.AgeColumn,
	},
	Row: priorityLevelRow,
}

func priorityLevelRow(l *flowcontrolv1.PriorityLevelConfiguration) []any {
	const none = "<none>"
	var shares, queues, hand, length any = none, none, none, none
	if lim := l.Spec.Limited; lim != nil {
		if lim.NominalConcurrencyShares != nil {
			shares = int64(*lim.NominalConcurrencyShares)
		}
		if q := lim.LimitResponse.Queuing; q != nil {
			queues, hand, length = int64(q.Queues), int64(q.HandSize), int64(q.QueueLengthLimit)
		}
	}
	return []any{l.Name, string(l.Spec.Type), shares, queues, hand, length, resource.Age(l)}
}

func defaultPriorityLevel(l *flowcontrolv1.PriorityLevelConfiguration) {
	set := func(p **int32, v int32) {
		if *p == nil {
			*p = &v
		}
	}
	// An exempt level may be left without its part only by its name.
	if l.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt && l.Spec.Exempt == nil {
		l.Spec.Exempt = &flowcontrolv1.ExemptPriorityLevelConfiguration{}
	}
	if e := l.Spec.Exempt; e != nil {
		set(&e.NominalConcurrencyShares, 0)
		set(&e.LendablePercent, 0)
	}
	lim := l.Spec.Limited
	if lim == nil {
		return
	}
	set(&lim.NominalConcurrencyShares, defaultShares)
	set(&lim.LendablePercent, 0)
	if q := lim.LimitResponse.Queuing; q != nil {
		for _, f := range []struct {
			p *int32
			v int32
		}{{&q.Queues, defaultQueues}, {&q.HandSize, defaultHandSize}, {&q.QueueLengthLimit, defaultQueueLength}} {
			if *f.p == 0 {
				*f.p = f.v
			}
		}
	}
}

func validatePriorityLevel(l *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	exempt := l.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt
	if exempt != (l.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt) && (exempt || l.Spec.Type != "") {
		errs = append(errs, field.Invalid(spec.Child("type"), l.Spec.Type, "must be 'Exempt' if and only if `name` is 'exempt'"))
	}
	errs = append(errs, validateFixedLevel(l, spec)...)
	switch l.Spec.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if l.Spec.Limited != nil {
			errs = append(errs, field.Forbidden(spec.Child("limited"), "must be nil if the type is not Limited"))
		}
		if e := l.Spec.Exempt; e == nil {
			errs = append(errs, field.Required(spec.Child("exempt"), "must not be empty when type is Exempt"))
		} else {
			errs = append(errs, validateShares(e.NominalConcurrencyShares, e.LendablePercent, spec.Child("exempt"))...)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if l.Spec.Exempt != nil {
			errs = append(errs, field.Forbidden(spec.Child("exempt"), "must be nil if the type is Limited"))
		}
		if l.Spec.Limited == nil {
			return append(errs, field.Required(spec.Child("limited"), "must not be empty when type is Limited"))
		}
		errs = append(errs, validateLimited(l.Spec.Limited, spec.Child("limited"))...)
	case "":
		errs = append(errs, field.Required(spec.Child("type"), ""))
	default:
		errs = append(errs, field.NotSupported(spec.Child("type"), l.Spec.Type,
			[]flowcontrolv1.PriorityLevelEnablement{flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited}))
	}
	return errs
}

// validateFixedLevel keeps the levels that every cluster has as they are.
func validateFixedLevel(l *flowcontrolv1.PriorityLevelConfiguration, spec *field.Path) field.ErrorList {
	for _, fixed := range bootstrap.MandatoryPriorityLevelConfigurations {
		if fixed.Name != l.Name {
			continue
		}
		want, got, rule := fixed.Spec.DeepCopy(), l.Spec.DeepCopy(), "must equal the fixed value"
		if l.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt {
			want.Exempt, got.Exempt, rule = nil, nil, "except the 'spec.exempt' field must equal the fixed value"
		}
		if !apiequality.Semantic.DeepEqual(want, got) {
			return field.ErrorList{field.Invalid(spec, l.Spec, fmt.Sprintf("spec of '%s' %s", l.Name, rule))}
		}
	}
	return nil
}

func validateShares(shares, lendable *int32, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if shares != nil && *shares < 0 {
		errs = append(errs, field.Invalid(at.Child("nominalConcurrencyShares"), *shares, "must be a non-negative integer"))
	}
	if lendable != nil && (*lendable < 0 || *lendable > 100) {
		errs = append(errs, field.Invalid(at.Child("lendablePercent"), *lendable, "must be between 0 and 100, inclusive"))
	}
	return errs
}

func validateLimited(lim *flowcontrolv1.LimitedPriorityLevelConfiguration, at *field.Path) field.ErrorList {
	errs := validateShares(lim.NominalConcurrencyShares, nil, at)
	errs = append(errs, validateResponse(&lim.LimitResponse, at.Child("limitResponse"))...)
	errs = append(errs, validateShares(nil, lim.LendablePercent, at)...)
	if b := lim.BorrowingLimitPercent; b != nil && *b < 0 {
		errs = append(errs, field.Invalid(at.Child("borrowingLimitPercent"), *b, "if specified, must be a non-negative integer"))
	}
	return errs
}

func validateResponse(r *flowcontrolv1.LimitResponse, at *field.Path) field.ErrorList {
	queuing := at.Child("queuing")
	switch r.Type {
	case flowcontrolv1.LimitResponseTypeReject:
		if r.Queuing != nil {
			return field.ErrorList{field.Forbidden(queuing, "must be nil if limited.limitResponse.type is not Limited")}
		}
	case flowcontrolv1.LimitResponseTypeQueue:
		if r.Queuing == nil {
			return field.ErrorList{field.Required(queuing, "must not be empty if limited.limitResponse.type is Limited")}
		}
		return validateQueuing(r.Queuing, queuing)
	case "":
		return field.ErrorList{field.Required(at.Child("type"), "")}
	default:
		return field.ErrorList{field.NotSupported(at.Child("type"), r.Type,
			[]flowcontrolv1.LimitResponseType{flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject})}
	}
	return nil
}

func validateQueuing(q *flowcontrolv1.QueuingConfiguration, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if q.QueueLengthLimit <= 0 {
		errs = append(errs, field.Invalid(at.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
	}
	if q.Queues <= 0 {
		errs = append(errs, field.Invalid(at.Child("queues"), q.Queues, "must be positive"))
	} else if q.Queues > maxQueues {
		errs = append(errs, field.Invalid(at.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues)))
	}
	hand := at.Child("handSize")
	switch {
	case q.HandSize <= 0:
		errs = append(errs, field.Invalid(hand, q.HandSize, "must be positive"))
	case q.HandSize > q.Queues:
		errs = append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	default:
		if bits := shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)); bits > shufflesharding.MaxHashBits {
			errs = append(errs, field.Invalid(hand, q.HandSize,
				fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, shufflesharding.MaxHashBits)))
		}
	}
	return errs
}
