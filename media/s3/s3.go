// Package s3 keeps files in a bucket of an S3 service. It is a package of its own, so that only hosts that want one link
// its client.
package s3

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/embedmatrix/homeserver/media"
)

// Config names a bucket. Endpoint and Bucket are required.
type Config struct {
	Endpoint string // host or host:port
	Bucket   string // is there already
	Prefix   string // of the names of all objects, such as "media/"; may be empty
	Region   string // empty: asked of the service

	AccessKey, SecretKey string

	// Insecure speaks HTTP without TLS.
	Insecure bool

	// PathStyle puts the bucket into the path instead of the host's name. Without it the client decides by the endpoint.
	PathStyle bool

	// Transport takes the requests. Nil: the client's own.
	Transport http.RoundTripper
}

// partSize is how much of a file whose size is not known is kept in memory.
const partSize = 16 << 20 // bytes; a file may have 10,000 parts

// Open returns the Store of a bucket. It does no I/O.
//
// An object is named for the SHA-256 of its key, since keys may be any text. A file of unknown size takes 16 MiB of
// memory while it is put, and may have 156 GiB.
func Open(cfg Config) (media.Store, error) {
	if cfg.Bucket == "" {
		return nil, errors.New("media/s3: Config.Bucket is missing")
	}
	lookup := minio.BucketLookupAuto
	if cfg.PathStyle {
		lookup = minio.BucketLookupPath
	}
	client, err := minio.New(cfg.Endpoint, &minio.Options{
		Creds: credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, ""), Secure: !cfg.Insecure, Region: cfg.Region,
		BucketLookup: lookup, Transport: cfg.Transport,
	})
	if err != nil {
		return nil, fmt.Errorf("media/s3: %w", err)
	}
	return &bucket{client, cfg}, nil
}

type bucket struct {
	client *minio.Client
	cfg    Config
}

func (b *bucket) name(key string) string {
	sum := sha256.Sum256([]byte(key))
	return b.cfg.Prefix + hex.EncodeToString(sum[:])
}

// Put implements media.Store. An object of S3 appears as a whole, or not at all.
func (b *bucket) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	if err := media.CheckKey(key); err != nil {
		return err
	}
	// What is signed in pieces has no length when it is empty, which not every service takes; TLS covers the bytes.
	options := minio.PutObjectOptions{ContentType: "application/octet-stream", DisableContentSha256: true}
	if size < 0 {
		options.PartSize = partSize
		buffered := bufio.NewReader(r)
		if _, err := buffered.Peek(1); errors.Is(err, io.EOF) {
			size = 0 // there is no empty part
		}
		r = buffered
	}
	exact := &exactReader{of: r, ctx: ctx, left: size, known: size >= 0}
	if err := exact.ended(); err != nil { // a client that has nothing to send reads nothing
		return fmt.Errorf("media/s3: put %q: %w", key, err)
	}
	_, err := b.client.PutObject(ctx, b.cfg.Bucket, b.name(key), exact, size, options)
	if exact.err != nil {
		err = exact.err // the client may have got over it
	}
	if err != nil {
		return fmt.Errorf("media/s3: put %q: %w", key, err)
	}
	return nil
}

// Get implements media.Store.
func (b *bucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, int64, error) {
	if offset < 0 {
		return nil, 0, fmt.Errorf("media/s3: negative offset %d", offset)
	}
	info, err := b.client.StatObject(ctx, b.cfg.Bucket, b.name(key), minio.StatObjectOptions{})
	if err != nil {
		return nil, 0, b.failed("get", key, err)
	}
	end := info.Size
	if length >= 0 && length < info.Size-min(offset, info.Size) {
		end = offset + length
	}
	if offset >= end {
		return io.NopCloser(eof{}), info.Size, nil
	}
	options := minio.GetObjectOptions{}
	err = errors.Join(options.SetRange(offset, end-1), options.SetMatchETag(info.ETag)) // of this file, not of a later one
	if err != nil {
		return nil, 0, b.failed("get", key, err)
	}
	body, _, _, err := (&minio.Core{Client: b.client}).GetObject(ctx, b.cfg.Bucket, b.name(key), options)
	if err != nil {
		return nil, 0, b.failed("get", key, err)
	}
	return body, info.Size, nil
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// Delete implements media.Store.
func (b *bucket) Delete(ctx context.Context, key string) error {
	err := b.client.RemoveObject(ctx, b.cfg.Bucket, b.name(key), minio.RemoveObjectOptions{})
	if err = b.failed("delete", key, err); errors.Is(err, media.ErrNotFound) {
		return nil
	}
	return err
}

func (b *bucket) failed(what, key string, err error) error {
	switch {
	case err == nil:
		return nil
	case minio.ToErrorResponse(err).StatusCode == http.StatusNotFound && minio.ToErrorResponse(err).Code != "NoSuchBucket":
		return media.ErrNotFound
	}
	return fmt.Errorf("media/s3: %s %q: %w", what, key, err)
}

// exactReader gives an error instead of an end that comes early, and once its context has ended.
type exactReader struct {
	of    io.Reader
	ctx   context.Context
	left  int64 // if known
	known bool
	err   error // the first other than io.EOF
}

func (e *exactReader) Read(p []byte) (int, error) {
	if e.err == nil {
		e.err = e.ctx.Err()
	}
	if e.err != nil {
		return 0, e.err
	}
	n, err := e.of.Read(p)
	e.left -= int64(n)
	switch {
	case e.known && e.left < 0:
		err = errLonger
	case e.known && errors.Is(err, io.EOF) && e.left > 0:
		err = fmt.Errorf("the file is %d bytes shorter than announced", e.left)
	case err == nil:
		err = e.ended()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		e.err = err
		return 0, err
	}
	return n, err
}

var errLonger = errors.New("the file is longer than announced")

// ended gives an error if more follows what was announced: the client would not ask for it.
func (e *exactReader) ended() error {
	if !e.known || e.left != 0 {
		return nil
	}
	var more [1]byte
	if n, _ := io.ReadFull(e.of, more[:]); n > 0 {
		e.err = errLonger
	}
	return e.err
}
