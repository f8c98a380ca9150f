"""What each rank must do, decided once, before anything starts. No torch.

make_plan(cluster, run) -> Plan        pure and deterministic; plan.to_json() is plan.json, plan.digest() its hash
make_profile_plan(cluster, run) -> ProfilePlan         of measuring its machines and wires
make_serve_plan(cluster, serve, shape) -> ServePlan    of a served model
"""
