"""The client in ten lines: publish a request and await its end, ask the index, watch it.

Run it beside `minicloud up`: `.venv/bin/python examples/client.py`.
"""

import asyncio

import minicloud

JOB = {
    "name": "greeter",
    "runtimes": ["process"],
    "images": {"process": {"command": ["/bin/echo", "hello from the edge"]}},
    "restart": "never",
}


async def main() -> None:
    async with minicloud.connect() as cloud:
        status = await cloud.deploy(JOB, until="ends")
        print(status.deployment, status.state, "on", status.node)
        print(await cloud.logs("greeter"))
        answer = await cloud.query("cpu.cores>=1,!battery", fields=["cpu.cores"], limit=3)
        print(answer.total, "nodes match, such as", answer.nodes)
        async for kind, revision, change in cloud.watch():
            print(kind, revision, change.node if change else "")
            if kind == "SYNC":  # that was the present state; from here on, every change
                break


asyncio.run(main())
