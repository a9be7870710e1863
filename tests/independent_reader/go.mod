module pqfl.invalid/independent_reader

go 1.26

require (
	filippo.io/mldsa v1.0.0
	github.com/klauspost/compress v1.20.4
)
