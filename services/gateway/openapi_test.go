package gateway

import (
	"bytes"
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/stretchr/testify/require"
)

// described reads openapi.yaml.
func described(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(openAPI)
	require.NoError(t, err)
	require.NoError(t, doc.Validate(t.Context()))
	return doc
}

// registered are the routes that the gateway, its page and the handler of health give
// to their mux, read from their sources: a mux does not tell. What is joined to the end
// of a pattern is the name of a file.
func registered(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	pages, err := filepath.Glob("ui/*.go")
	require.NoError(t, err)
	files = append(append(files, pages...), "../../shared/daemon/health.go")
	routes := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			call, is := n.(*ast.CallExpr)
			if !is || len(call.Args) != 2 {
				return true
			}
			method, is := call.Fun.(*ast.SelectorExpr)
			if !is || method.Sel.Name != "Handle" && method.Sel.Name != "HandleFunc" {
				return true
			}
			first, rest := call.Args[0], ""
			if joined, is := first.(*ast.BinaryExpr); is {
				first, rest = joined.X, "{file}"
			}
			pattern, is := first.(*ast.BasicLit)
			require.True(t, is, "%s: a route whose pattern begins with no literal", name)
			text, err := strconv.Unquote(pattern.Value)
			require.NoError(t, err)
			routes[text+rest] = true
			return true
		})
	}
	return slices.Sorted(maps.Keys(routes))
}

func TestEveryRouteIsDescribed(t *testing.T) {
	t.Parallel()
	var operations []string
	for path, item := range described(t).Paths.Map() {
		for method, operation := range item.Operations() {
			require.NotEmpty(t, operation.OperationID, path)
			if planned, _ := operation.Extensions["x-planned"].(bool); planned {
				continue
			}
			operations = append(operations, method+" "+path)
		}
	}
	slices.Sort(operations)
	var routes []string
	for _, route := range registered(t) {
		if !strings.Contains(route, " ") {
			route = http.MethodGet + " " + route
		}
		routes = append(routes, strings.ReplaceAll(strings.TrimSuffix(route, "{$}"), "...}", "}"))
	}
	slices.Sort(routes)
	require.Equal(t, operations, routes, "openapi.yaml and the handlers differ")
}

// contract checks answers against openapi.yaml.
type contract struct {
	t      *testing.T
	g      *gatewayRun
	router routers.Router
	// seen are the operations that were answered with 200.
	seen map[string]bool
}

func newContract(t *testing.T, g *gatewayRun) *contract {
	t.Helper()
	doc := described(t)
	router, err := gorillamux.NewRouter(doc)
	require.NoError(t, err)
	return &contract{t: t, g: g, router: router, seen: map[string]bool{}}
}

// get asks and checks the answer's status, headers and body.
func (c *contract) get(path, bearer string, status int, header ...string) []byte {
	c.t.Helper()
	request, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, "http://"+c.g.Addr()+path, nil)
	require.NoError(c.t, err)
	if bearer != "" {
		request.Header.Set("Authorization", "Bearer "+bearer)
	}
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	answer, err := client.Do(request)
	require.NoError(c.t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(c.t, err)
	require.Equal(c.t, status, answer.StatusCode, "%s: %s", path, body)
	request.URL.Host, request.URL.Scheme, request.Host = "", "", ""
	route, params, err := c.router.FindRoute(request)
	require.NoError(c.t, err, path)
	input := &openapi3filter.RequestValidationInput{
		Request: request, PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	if status == http.StatusOK {
		require.NoError(c.t, openapi3filter.ValidateRequest(c.t.Context(), input), path)
		c.seen[route.Method+" "+route.Path] = true
	}
	require.NoError(c.t, openapi3filter.ValidateResponse(context.WithoutCancel(c.t.Context()), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: status, Header: answer.Header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}), "%s: %s", path, body)
	return body
}
