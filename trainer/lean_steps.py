"""Steps of transformers' training loop without what it does in vain in each of them."""

import os

import torch


class LeanSteps:
    """To stand before `transformers.Trainer` among a trainer's bases."""

    @classmethod
    def get_optimizer_cls_and_kwargs(cls, args, model=None):
        """As in transformers, and SGD with its fused kernel: less than half of the time, the same but for rounding."""
        optimizer, kwargs = super().get_optimizer_cls_and_kwargs(args, model)
        sharded = args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"  # has no such kernel
        fused = {"fused": True} if optimizer is torch.optim.SGD and not sharded else {}
        return optimizer, fused | kwargs

    def _wrap_model(self, model, *args, **kwargs):
        """As in transformers, and in `args.channels_last`: convolutions follow their weights, whatever their input."""
        if self.args.channels_last:
            self.model.to(memory_format=torch.channels_last)
        return super()._wrap_model(model, *args, **kwargs)

    def _get_grad_norm(self, model, grad_norm=None):
        """As in transformers, which clips with an infinite limit to learn the norm: that writes every gradient anew.

        Where gradients are not clipped, only steps that are logged have a norm.
        """
        gradients = [p.grad for p in model.parameters() if p.grad is not None] if grad_norm is None else []
        plain = not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        if not (plain and gradients and all(type(gradient) is torch.Tensor for gradient in gradients)):
            return super()._get_grad_norm(model, grad_norm)
        if not self._is_logged():
            return None
        self.accelerator.unscale_gradients()
        return torch.nn.utils.get_total_norm(gradients)

    def _is_logged(self):
        """Whether the step that is taken now is the one before a log entry (`bool`)."""
        step = self.state.global_step + 1
        if step >= self.state.max_steps or (step == 1 and self.args.logging_first_step):
            return True
        if self.args.logging_strategy == "steps":
            return step % self.state.logging_steps == 0
        return self.accelerator.gradient_state.end_of_dataloader  # an epoch ends

    def floating_point_ops(self, inputs):
        """As in transformers, but the parameters are counted once, not in every step."""
        size = inputs["labels"].numel()
        known = self.__dict__.setdefault("_flops", {})
        if size not in known:
            known[size] = super().floating_point_ops(inputs)
        return known[size]
