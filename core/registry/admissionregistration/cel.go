package admissionregistration

import (
	"strings"
	"sync"

	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// newCompiler is for expressions without variables of their own. It is made
// when the first expression comes: it takes a few milliseconds and megabytes.
var newCompiler = sync.OnceValue(func() *lazyCompiler { return &lazyCompiler{} })

// lazyCompiler makes its compiler at the first expression.
type lazyCompiler struct {
	once     sync.Once
	compiler cel.Compiler
}

var _ cel.Compiler = (*lazyCompiler)(nil)

// CompileCELExpression implements cel.Compiler.
func (c *lazyCompiler) CompileCELExpression(e cel.ExpressionAccessor, o cel.OptionalVariableDeclarations, mode environment.Type) cel.CompilationResult {
	c.once.Do(func() {
		c.compiler = cel.NewCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	})
	return c.compiler.CompileCELExpression(e, o, mode)
}

// compile says what is wrong with an expression.
func compile(c cel.Compiler, e cel.ExpressionAccessor, options cel.OptionalVariableDeclarations, at *field.Path) field.ErrorList {
	return compileError(c.CompileCELExpression(e, options, environment.NewExpressions), at)
}

func compileError(result cel.CompilationResult, at *field.Path) field.ErrorList {
	if result.Error == nil {
		return nil
	}
	switch result.Error.Type {
	case apiservercel.ErrorTypeRequired:
		return field.ErrorList{field.Required(at, result.Error.Detail)}
	case apiservercel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(at, result.ExpressionAccessor.GetExpression(), result.Error.Detail)}
	}
	return field.ErrorList{field.InternalError(at, result.Error)}
}

func validateMatchConditions(c cel.Compiler, conditions []v1.MatchCondition, options cel.OptionalVariableDeclarations, parent *field.Path) field.ErrorList {
	at := parent.Child("matchConditions")
	var errs field.ErrorList
	if len(conditions) > maxMatchConditions {
		errs = append(errs, field.TooMany(at, len(conditions), maxMatchConditions))
	}
	seen := map[string]bool{}
	for i := range conditions {
		m := &conditions[i]
		if strings.TrimSpace(m.Expression) == "" {
			errs = append(errs, field.Required(at.Index(i).Child("expression"), ""))
		} else {
			errs = append(errs, compile(c, (*matchconditions.MatchCondition)(m), options, at.Index(i).Child("expression"))...)
		}
		if m.Name == "" {
			errs = append(errs, field.Required(at.Index(i).Child("name"), ""))
			continue
		}
		for _, msg := range validation.IsQualifiedName(m.Name) {
			errs = append(errs, field.Invalid(at.Index(i).Child("name"), m.Name, msg))
		}
		if seen[m.Name] {
			errs = append(errs, field.Duplicate(at.Index(i).Child("name"), m.Name))
		}
		seen[m.Name] = true
	}
	return errs
}
