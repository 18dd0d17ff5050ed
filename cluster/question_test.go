package cluster

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/redistest"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

func TestEveryOtherReplicaAnswers(t *testing.T) {
	_, a, _, _ := three(t)
	answers, missing, err := a.Ask(t.Context(), Question{Kind: "short", Body: []byte(`"hello"`)})
	var got []string
	for _, answer := range answers {
		got = append(got, answer.Replica+": "+string(answer.Body))
	}
	slices.Sort(got)
	if want := []string{`b: "b to \"hello\""`, `c: "c to \"hello\""`}; !slices.Equal(got, want) || len(missing) > 0 || err != nil {
		t.Errorf("%q, %q missing, %v", got, missing, err)
	}
}

func TestLongAnswersAreFetched(t *testing.T) {
	s, a, _, _ := three(t)
	answers, missing, err := a.Ask(t.Context(), Question{Kind: "long"})
	if len(answers) != 2 || len(missing) > 0 || err != nil {
		t.Fatalf("%d answers, %q missing, %v", len(answers), missing, err)
	}
	for _, answer := range answers {
		if strings.Count(string(answer.Body), "x") != 3*maxInline {
			t.Errorf("%d bytes of %s", len(answer.Body), answer.Replica)
		}
	}
	if left := s.Client(t).Keys(t.Context(), "*answer*").Val(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestReplicaThatDoesNotAnswerIsNamed(t *testing.T) {
	s := redistest.Start(t)
	link := redistest.NewLink(t, s.Addr)
	a, b, c := join(t, "a", at(s.Addr)), join(t, "b", at(s.Addr)), join(t, "c", at(link.Addr))
	ready(t, a, b, c)
	link.Cut()
	began := time.Now()
	answers, missing, err := a.Ask(t.Context(), Question{Kind: "short"})
	if len(answers) != 1 || !slices.Equal(missing, []string{"c"}) || err != nil {
		t.Errorf("%d answers, %q missing, %v", len(answers), missing, err)
	}
	if took := time.Since(began); took > 2*answerTimeout {
		t.Errorf("waited %s", took)
	}
	began = time.Now() // it is not waited for a second time
	answers, missing, err = a.Ask(t.Context(), Question{Kind: "short"})
	if took := time.Since(began); len(answers) != 1 || !slices.Equal(missing, []string{"c"}) || err != nil || took > answerTimeout/2 {
		t.Errorf("%d answers, %q missing, %v, after %s", len(answers), missing, err, took)
	}
	link.Heal()
	wstest.Eventually(t, "c answers again", func() bool {
		answers, missing, err := a.Ask(t.Context(), Question{Kind: "short"})
		return len(answers) == 2 && len(missing) == 0 && err == nil
	})
}

func TestReplicasAreWaitedForAfterACallerThatHasLeft(t *testing.T) {
	_, a, _, _ := three(t)
	gone, leave := context.WithCancel(t.Context())
	leave()
	a.Ask(gone, Question{Kind: "short"})
	answers, missing, err := a.Ask(t.Context(), Question{Kind: "short"})
	if len(answers) != 2 || len(missing) > 0 || err != nil {
		t.Errorf("%d answers, %q missing, %v", len(answers), missing, err)
	}
}

func TestNoAnswersWhileRedisIsAway(t *testing.T) {
	s, a, _, _ := three(t)
	s.Kill()
	wstest.Eventually(t, "alone", func() bool { return !a.State().Connected })
	if answers, missing, err := a.Ask(t.Context(), Question{Kind: "short"}); answers != nil || len(missing) != 2 || err == nil {
		t.Errorf("%v, %q, %v", answers, missing, err)
	}
}
