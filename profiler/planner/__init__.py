"""Will it fit, how long will it take, what will it cost.

    from profiler.planner.catalogue import known_device, known_model
    from profiler.planner.plan import Request, make_plan

    request = Request(known_model("gpt3-175b"), known_device("a100-80gb"), devices=1024, strategy="zero3", units=300e9)
    plan = make_plan(request)
    plan.memory.fits, plan.time.days, plan.cost.usd

Everything here is plain functions over frozen values; figures that come from somewhere else lie in `catalogues/`.
"""
