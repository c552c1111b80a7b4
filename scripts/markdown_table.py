"""Tables of figures, in the form of BENCHMARKS.md."""
import datetime
import os


def machine(threads):
    """What a figure depends on besides its command; the load before it shows how much others disturbed."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown processor")
    load = os.getloadavg()[0]
    return f"{datetime.date.today()}, {name}, {os.cpu_count()} CPUs, threads: {threads}, load average before: {load:.1f}"


def text(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines).replace("| --- ", "|---").replace("|--- |", "|---|")


def publish(parts, folder, name):
    """Prints the parts with an empty line between them, and writes them to FOLDER/NAME.md where a folder is named."""
    page = "\n".join(parts)
    print(page, end="")
    if folder:
        with open(os.path.join(folder, name + ".md"), "w", encoding="utf-8") as file:
            file.write(page)
