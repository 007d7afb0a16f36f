package token_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/token"
)

func TestStream(t *testing.T) {
	require.Equal(t, "s12_3_bOOt1", token.Stream{Pos: 12, Typing: 3, Boot: "bOOt1"}.String())
	for _, s := range []token.Stream{{}, {12, 3, "bOOt1"}, {math.MaxInt64, math.MaxInt64, "x"}} {
		got, err := token.ParseStream(s.String())
		require.NoError(t, err, s)
		require.Equal(t, s, got)
	}
	for _, text := range []string{
		"", "s", "s1", "s1_2", "1_2_x", "t1_2_x", "s-1_2_x", "s1_-2_x", "s01_2_x", "s+1_2_x", "s1_2_x y", "s1_2_x_y",
		" s1_2_x", "s1_2_\x00", "s9223372036854775808_0_x", "s1_2_ä", "S1_2_x", "s1.0_2_x", "null", "0",
	} {
		_, err := token.ParseStream(text)
		require.ErrorIs(t, err, token.ErrSyntax, "ParseStream(%q)", text)
	}
}

func TestHistory(t *testing.T) {
	require.Equal(t, "t-5_7", token.History{Ord: -5, Pos: 7}.String())
	for _, h := range []token.History{{}, {-5, 7}, {math.MinInt64, math.MaxInt64}} {
		got, err := token.ParseHistory(h.String())
		require.NoError(t, err, h)
		require.Equal(t, h, got)
	}
	for _, text := range []string{"", "t", "t1", "s1_2", "t1_-2", "t01_2", "t1_2_3", "t1_2 ", "t--1_2", "t-0_1"} {
		_, err := token.ParseHistory(text)
		require.ErrorIs(t, err, token.ErrSyntax, "ParseHistory(%q)", text)
	}
}

// FuzzTokens: a text is at most one token, and every token is read back as it was written.
func FuzzTokens(f *testing.F) {
	for _, seed := range []string{"s12_3_boot", "t-5_7", "s0_0_", "t9223372036854775807_0", "s1_2_x_y", "t01_2", "s_", "t"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, errS := token.ParseStream(text)
		if errS == nil && s.String() != text {
			t.Errorf("ParseStream(%q) reads %+v, which is written %q", text, s, s)
		}
		h, errH := token.ParseHistory(text)
		if errH == nil && h.String() != text {
			t.Errorf("ParseHistory(%q) reads %+v, which is written %q", text, h, h)
		}
		if errS == nil && errH == nil {
			t.Errorf("%q is both kinds of token", text)
		}
	})
}
