"""Wrong conversions, made on purpose and one at a time: does the product's own judgement catch each?"""
