package eventauth

import "github.com/embedmatrix/homeserver/internal/roomversion"

// RuleNumbers lists the numbers of all rules that can refuse an event of the version.
func RuleNumbers(rules *roomversion.Rules) (numbers []string) {
	for _, l := range outline {
		if l.rule != otherwise && (l.in == nil || l.in(rules)) {
			numbers = append(numbers, number(rules, l.rule))
		}
	}
	return numbers
}
