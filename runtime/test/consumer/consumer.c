/* Calls one function of each header of the installed package. */
#include <stdio.h>
#include <trimtab/glue.h>
#include <trimtab/runtime.h>

int main(void) {
  const float shares[2] = {3, 1};
  int quotas[2];
  if (tt_quotas(shares, NULL, 2, 8, quotas) != TT_OK || quotas[0] != 6 || tt_abi_version() != TT_ABI_VERSION) return 1;
  puts("works");
  return 0;
}
