package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestClassify(t *testing.T) {
	own, err := os.ReadFile("../../LICENSE")
	require.NoError(t, err)
	tests := []struct {
		name, text, want string
	}{
		{"our own", string(own), "Apache-2.0"},
		{"wrapped", "Permission is hereby granted, free of charge,\n  to any person obtaining a copy\nof this software", "MIT"},
		{"bsd", "Redistribution and use in source and binary forms, with or without\nmodification, are permitted provided", "BSD"},
		{"copyleft", "GNU GENERAL PUBLIC LICENSE\nVersion 3", ""},
		{"permissive and copyleft", "Apache License Version 2.0, January 2004 or Mozilla Public License", ""},
		{"something else", "You may use this on Sundays.", ""},
		{"empty", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := classify(tt.text)
			require.Equal(t, tt.want != "", err == nil, "classify: %v", err)
			require.Equal(t, tt.want, got)
		})
	}
}
