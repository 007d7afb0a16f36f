package token_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/token"
)

func TestTokensComeBackAsTheyWere(t *testing.T) {
	for _, s := range []token.Stream{{}, {Pos: 12, Typing: 3, Boot: "aB9"}, {Pos: 12, Typing: 3, Presence: 40, Boot: "a"}, {Pos: 12, Inbox: 5, Boot: "a"}} {
		got, err := token.ParseStream(s.String())
		require.NoError(t, err, "ParseStream(%q)", s)
		require.Equal(t, s, got)
	}
	for _, h := range []token.History{{}, {Ord: 7 << 16}, {Ord: -5}} {
		got, err := token.ParseHistory(h.String())
		require.NoError(t, err, "ParseHistory(%q)", h)
		require.Equal(t, h, got)
	}
}

func TestOtherTextsAreNoTokens(t *testing.T) {
	texts := []string{
		"", "s", "t", "x1", "s1", "s1_2", "s1_2_3_4", "s-1_0_a", "s01_0_a", "s1_2.0_a", "s1_2._a", "s1_2.-1_a", "s1_2.3.4_a", "s1_.3_a", "s1.2_3_a", "s2.2_0_a", "s2.0_0_a", "s2.-1_0_a", "s2.1.1_0_a", "s+1_0_a", "1_0_a", "s1_0_a b",
		"s99999999999999999999_0_a", "s9223372036854775807_0_a", "t+1", "t01", "t1.5", "1", "t9223372036854775807", "tt1",
	}
	for _, text := range texts {
		_, err := token.ParseStream(text)
		require.ErrorIs(t, err, token.ErrBad, "ParseStream(%q)", text)
		_, err = token.ParseHistory(text)
		require.ErrorIs(t, err, token.ErrBad, "ParseHistory(%q)", text)
	}
}

// FuzzParse: what is accepted is written back as it was, and no text is a token of both kinds.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"s1_2_boot", "t65536", "t-1", "s0_0_", "s1_2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, errS := token.ParseStream(text)
		if errS == nil && s.String() != text {
			t.Errorf("ParseStream(%q) = %q", text, s)
		}
		h, errH := token.ParseHistory(text)
		if errH == nil && h.String() != text {
			t.Errorf("ParseHistory(%q) = %q", text, h)
		}
		if errS == nil && errH == nil {
			t.Errorf("%q is both", text)
		}
	})
}
