"""The runner's process: started by the supervisor, it runs handlers and decides nothing.

``loading``      imports an app by its name
``describe``     imports an app once and answers what it declares, or whether a payload fits
``process``      makes a process a runner: its birth, its signals, its output, its end
``connection``   both channels, from hello to goodbye
``control``      the thread that keeps the heartbeat and hears what the supervisor pushes
``deadman``      the timer that ends a runner when the supervisor says nothing more
``link``         the data channel: questions, reports, work
``eventloop``    what async handlers need, imported for those who have any
``lifespan``     what handlers share in a runner
``session``      the loop: take an execution, run it, report
``handlerlink``  one execution's way to the supervisor
``reports``      how an attempt ended, in words for the supervisor
"""
