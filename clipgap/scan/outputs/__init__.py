"""What a scan says of each training row, one file an output.

An output has columns, a way to fill them, and a definition to prove them with; the list in
`clipgap.scan.tables` names all outputs, and tables, counts and proofs follow from what they say.
"""
