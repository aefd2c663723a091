"""Networks that predict the clean target x_0 from a noised one."""
