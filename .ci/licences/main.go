// Licences fails unless every module that the packages of the tree need, on every system that they are built for, and
// every npm package of the real client, has a permissive licence.
//
//	go run ./.ci/licences
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var systems = []string{"linux/amd64", "linux/386", "linux/arm64", "darwin/arm64", "windows/amd64"}

func main() {
	modules, err := modules()
	if err != nil {
		fatal(err)
	}
	var refused []error
	for _, path := range slices.Sorted(maps.Keys(modules)) {
		names, err := licencesOf(path, modules[path])
		if err != nil {
			refused = append(refused, fmt.Errorf("%s: %w", path, err))
			continue
		}
		fmt.Printf("%-45s %s\n", path, strings.Join(names, ", "))
	}
	refused = append(refused, npm(".ci/client/package-lock.json")...)
	if len(refused) > 0 {
		fatal(errors.Join(refused...))
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// modules gives the folders of the modules that packages and their tests need, by path.
func modules() (map[string]string, error) {
	folders := make(map[string]string)
	for _, system := range systems {
		goos, goarch, _ := strings.Cut(system, "/")
		list := exec.Command("go", "list", "-deps", "-test", "-json=Module", "./...")
		list.Env = append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0")
		list.Stderr = os.Stderr
		output, err := list.Output()
		if err != nil {
			return nil, fmt.Errorf("go list for %s: %w", system, err)
		}
		if err := addModules(folders, output); err != nil {
			return nil, err
		}
	}
	return folders, nil
}

func addModules(folders map[string]string, output []byte) error {
	for list := json.NewDecoder(bytes.NewReader(output)); ; {
		var pkg struct {
			Module *struct {
				Path, Dir string
				Main      bool
			}
		}
		err := list.Decode(&pkg)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if pkg.Module != nil && !pkg.Module.Main {
			folders[pkg.Module.Path] = pkg.Module.Dir
		}
	}
}

// licencesOf names the licences of the files at the top of a module. One that is not known, or none, is an error.
func licencesOf(module, folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() || !licenceFile.MatchString(entry.Name()) || aside[module+" "+entry.Name()] {
			continue
		}
		text, err := os.ReadFile(filepath.Join(folder, entry.Name()))
		if err != nil {
			return nil, err
		}
		name, err := classify(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", entry.Name(), err)
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil, errors.New("no licence file")
	}
	return names, nil
}

var licenceFile = regexp.MustCompile(`(?i)^(.*-)?(licen[cs]e|copying|unlicense)([.-].*)?$`)

// aside are files, read by a person, that license nothing which a program links. What the first two list of other
// modules is checked here module by module, where it is needed at all.
var aside = map[string]bool{
	"modernc.org/sqlite LICENSE-3RD-PARTY.md": true, // an inventory of the whole module graph, with texts
	"modernc.org/libc LICENSE-3RD-PARTY.md":   true, // likewise
	"modernc.org/memory LICENSE-LOGO":         true, // the address of a picture
}

// permissive are the licences we take, by words that only their text has.
var permissive = []struct{ name, words string }{
	{"Apache-2.0", "apache license version 2.0, january 2004"},
	{"MIT", "permission is hereby granted, free of charge, to any person obtaining a copy of this software"},
	{"ISC", "permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted"},
	{"ISC", "permission to use, copy, modify, and distribute this software for any purpose with or without fee is hereby granted"},
	{"BSD", "redistribution and use in source and binary forms, with or without modification, are permitted"},
	{"public domain", "the author disclaims copyright to this source code"},
	{"public domain", "dedicated to the public domain by the authors"},
}

// refusedWords are in the titles of licences that bind the programs which use the code.
var refusedWords = []string{
	"gnu general public license", "gnu lesser general public", "gnu library general public", "gnu affero general public",
	"mozilla public license", "eclipse public license", "server side public license", "business source license",
	"creative commons attribution-sharealike", "all advertising materials mentioning features",
}

func classify(text string) (string, error) {
	text = strings.Join(strings.Fields(strings.ToLower(text)), " ")
	for _, words := range refusedWords {
		if strings.Contains(text, words) {
			return "", fmt.Errorf("speaks of the %s", words)
		}
	}
	for _, licence := range permissive {
		if strings.Contains(text, licence.words) {
			return licence.name, nil
		}
	}
	return "", errors.New("unknown licence")
}

// npmPermissive are the licences we take of packages that are only used to test.
var npmPermissive = []string{"Apache-2.0", "MIT", "ISC", "BSD-2-Clause", "BSD-3-Clause", "0BSD"}

func npm(lock string) []error {
	text, err := os.ReadFile(lock)
	if err != nil {
		return []error{err}
	}
	var file struct {
		Packages map[string]struct{ License string }
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return []error{fmt.Errorf("%s: %w", lock, err)}
	}
	var refused []error
	for _, path := range slices.Sorted(maps.Keys(file.Packages)) {
		licence := file.Packages[path].License
		if !slices.Contains(npmPermissive, licence) {
			refused = append(refused, fmt.Errorf("npm %s: licence %q", path, licence))
			continue
		}
		fmt.Printf("npm %-41s %s\n", strings.TrimPrefix(path, "node_modules/"), licence)
	}
	return refused
}
