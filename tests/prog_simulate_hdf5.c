/* prog_simulate with real parts in HDF5: slower, and no write of a part can be made to fail. */
#include "tests/exploration.h"
#include "tests/simulated_worker.h"
#include "tests/simulated_world.h"
#include "tests/simulation.h"

#include <stdbool.h>

void simulated_parts_fail(int count);
bool simulated_parts_can_fail(void);

void simulated_parts_fail(int count)
{
    (void)count;
}

bool simulated_parts_can_fail(void)
{
    return false;
}

int main(int argc, char **argv)
{
    return exploration_main(argc, argv);
}
