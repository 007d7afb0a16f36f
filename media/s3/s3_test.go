package s3_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/media"
	"github.com/embedmatrix/homeserver/media/mediatest"
	"github.com/embedmatrix/homeserver/media/s3"
)

// TestBucket needs an S3 service with a bucket "media": HOMESERVER_TEST_S3 is its host:port, without TLS.
func TestBucket(t *testing.T) {
	endpoint := os.Getenv("HOMESERVER_TEST_S3")
	if endpoint == "" {
		t.Skip("HOMESERVER_TEST_S3 is not set")
	}
	mediatest.Run(t, func(t *testing.T) media.Store {
		store, err := s3.Open(s3.Config{
			Endpoint: endpoint, Bucket: "media", Prefix: strings.ReplaceAll(t.Name(), "/", "-") + "/", Region: "us-east-1",
			AccessKey: "test", SecretKey: "test-secret", Insecure: true, PathStyle: true,
		})
		require.NoError(t, err)
		return store
	})
}

func TestConfig(t *testing.T) {
	for _, cfg := range []s3.Config{{}, {Endpoint: "s3.example.org"}, {Bucket: "media"}, {Endpoint: "http://s3.example.org/x", Bucket: "media"}} {
		_, err := s3.Open(cfg)
		require.Error(t, err)
	}
}
