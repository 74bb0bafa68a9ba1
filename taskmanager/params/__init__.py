"""What the schema of a task type may be, and whether params and request bodies fit.

Callers use `check_schema`, `check_params`, `param_problems`, `param_warnings`,
`body_problems` and `WorkBudget` of `validation`, and `compile_schema` of
`schemas` for schemas of their own. Plugins use `register_format` of `formats`.

    messages    what an error means to the person who sent the value
    patterns    ECMA 262 for the engines of jsonschema-rs
    limits      the draft, size and keywords of a schema
    work        how much work a schema causes at one place of a value
    schemas     reading and compiling, and the validators that the process remembers
"""
