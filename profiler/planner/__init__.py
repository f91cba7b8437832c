"""Will it fit, how long will it take, what will it cost.

    from profiler.planner.plan import Request, make_plan

    plan = make_plan(Request(model=known_model("gpt3-175b"), device=known_device("a100-80gb"), devices=1024, tokens=300e9))
    plan.memory.fits, plan.time.days, plan.cost.usd

Everything here is plain functions over frozen values; figures that come from somewhere else lie in `catalogues/`.
"""
