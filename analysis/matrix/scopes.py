from analysis.weights import SCOPES, Scope, normalise, scoped
